package lab;

import java.util.Random;

/** Chooses keys for the records that go into a keyed component. */
final class Keys {
    private final Knobs knobs;
    private final String component;
    private final int salt;
    private final Random random;

    Keys(Job job, String component, String from, int index) {
        knobs = Knobs.of(job.knobs);
        this.component = component;
        salt = job.salt;
        random = new Random(job.seed * 7_919L + from.hashCode() * 17L + index);
    }

    long next() {
        double hot = component == null ? 0 : knobs.number("hot." + component, 0);
        if (hot > 0 && random.nextDouble() < hot) {
            long key = 1_000_000L + (long) knobs.number("hot." + component + ".key", 4711) * 1000;
            int spread = (int) Math.max(salt, knobs.number("salt." + component, 0));
            return spread > 1 ? key + random.nextInt(spread) : key;
        }
        return random.nextInt(Item.KEYS);
    }
}
