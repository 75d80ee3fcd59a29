package lab;

import java.util.Properties;
import java.util.Random;
import java.util.concurrent.locks.LockSupport;

/** What a record costs one subtask: time parked in the task's thread, of which a share may be burned on the CPU. */
final class Cost {
    private static final double PIECE = 2e6; // ns; shorter parks cost more wake-ups than they are worth

    private final Knobs knobs;
    private final String component;
    private final int index;
    private final boolean source;
    private final double ms;
    private final Random random;
    private final long born = System.currentTimeMillis();
    private final double phase, period;
    private Properties seen;
    private long next;
    private double factor = 1, burn, debt, failAfter = Double.NaN;

    Cost(Job job, Job.Component c, int index, boolean source) {
        this.knobs = Knobs.of(job.knobs);
        this.component = c.name;
        this.index = index;
        this.source = source;
        this.ms = c.cost;
        random = new Random(job.seed * 1_000_003L + c.name.hashCode() * 31L + index);
        phase = random.nextDouble() * 2 * Math.PI;
        period = 120 + 120 * random.nextDouble();
    }

    void pay() {
        long now = System.nanoTime();
        if (seen != knobs.all() || now > next) {
            look(now);
        }
        if (!Double.isNaN(failAfter) && System.currentTimeMillis() - born > failAfter * 1000) {
            throw new IllegalStateException("injected failure in " + component + "[" + index + "]");
        }
        // Log-normal, mean 1.
        debt += ms * 1e6 * factor * Math.exp(0.3 * random.nextGaussian() - 0.045);
        while (debt >= PIECE) {
            double spin = debt * burn;
            if (spin > 0) {
                long until = now + (long) spin;
                while (System.nanoTime() < until) {
                    Thread.onSpinWait();
                }
            }
            if (debt > spin) {
                LockSupport.parkNanos((long) (debt - spin));
            }
            long t = System.nanoTime();
            debt -= t - now;
            now = t;
            if (Thread.currentThread().isInterrupted()) {
                return;
            }
        }
    }

    private void look(long now) {
        seen = knobs.all();
        next = now + 500_000_000L;
        double f = knobs.number("cost." + component, 1) * knobs.number("cost." + component + "." + index, 1);
        if (!source) {
            f *= knobs.number("worker." + Knobs.WORKER, 1);
        }
        factor = f * (1 + 0.04 * Math.sin(now / 1e9 * 2 * Math.PI / period + phase));
        burn = Math.max(0, Math.min(1, knobs.number("burn." + component, 0)));
        failAfter = knobs.number("fail." + component + "." + index, Double.NaN);
    }
}
