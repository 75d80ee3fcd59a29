package lab;

import java.io.Serializable;
import java.util.HashMap;
import java.util.Map;

/** What the arguments say of a job: its knobs and its components. */
final class Job implements Serializable {
    final String knobs;
    final String name;
    final long seed;
    final int salt;
    private final Map<String, Component> components = new HashMap<>();

    /** One component: parallelism, cost of a record in ms, of a source records/s, records out per record in. */
    static final class Component implements Serializable {
        final String name;
        int parallelism = 1;
        double cost;
        double rate;
        double fan = 1;

        Component(String text) {
            String[] parts = text.split(",");
            name = parts[0];
            for (int i = 1; i < parts.length; i++) {
                String[] pair = parts[i].split("=");
                double v = Double.parseDouble(pair[1]);
                switch (pair[0]) {
                    case "parallelism": parallelism = (int) v; break;
                    case "cost": cost = v; break;
                    case "rate": rate = v; break;
                    case "fan": fan = v; break;
                    default: throw new IllegalArgumentException(text);
                }
            }
        }
    }

    Job(String[] args) {
        String knobs = "", name = "job";
        long seed = 1;
        int salt = 0;
        for (int i = 0; i + 1 < args.length; i += 2) {
            String v = args[i + 1];
            switch (args[i]) {
                case "--knobs": knobs = v; break;
                case "--name": name = v; break;
                case "--seed": seed = Long.parseLong(v); break;
                case "--salt": salt = Integer.parseInt(v); break;
                case "--component":
                    Component c = new Component(v);
                    components.put(c.name, c);
                    break;
                default: throw new IllegalArgumentException("unknown argument " + args[i]);
            }
        }
        this.knobs = knobs;
        this.name = name;
        this.seed = seed;
        this.salt = salt;
    }

    Component component(String name) {
        Component c = components.get(name);
        if (c == null) {
            throw new IllegalArgumentException("no --component " + name);
        }
        return c;
    }
}
