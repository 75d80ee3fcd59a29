package lab;

import java.io.FileInputStream;
import java.io.IOException;
import java.lang.management.GarbageCollectorMXBean;
import java.lang.management.ManagementFactory;
import java.lang.management.MemoryPoolMXBean;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.locks.LockSupport;

/** The knobs of one job, read again every half second; one set per TaskManager and job. */
final class Knobs {
    private static final Map<String, Knobs> ALL = new HashMap<>();
    static final String WORKER = System.getProperty("dhalion.worker", "");
    private static final int BLOCK = 128 * 1024;
    private static final double FULL = 0.955; // of the old generation; the rest is too little for what survives the young one
    private static final double OVERFULL = 0.975;

    private final String file;
    private volatile Properties now = new Properties();
    private List<byte[]> held = new ArrayList<>();
    private long collections, garbage, collectingBefore, lookedAt, made;

    static synchronized Knobs of(String file) {
        return ALL.computeIfAbsent(file, Knobs::new);
    }

    private Knobs(String file) {
        this.file = file;
        load();
        Thread t = new Thread(this::follow, "knobs");
        t.setDaemon(true);
        t.start();
    }

    private void follow() {
        for (int n = 0; ; n++) {
            try {
                Thread.sleep(500);
            } catch (InterruptedException e) {
                return;
            }
            // The job's class loader is closed when its tasks have left this JVM; a
            // restart gets a new one, and Knobs of its own.
            if (n % 20 == 0 && Knobs.class.getResource("Knobs.class") == null) {
                return;
            }
            load();
            try {
                press(number("memory." + WORKER, 0));
            } catch (OutOfMemoryError e) {
                held = new ArrayList<>(); // the tasks may have it
            }
        }
    }

    private void load() {
        Properties p = new Properties();
        try (FileInputStream in = new FileInputStream(file)) {
            p.load(in);
        } catch (IOException e) {
            return; // between two versions, or not written yet: the old ones hold
        }
        now = p;
    }

    /**
     * Holds so much live memory that the old generation is nearly full, and makes garbage beside it, as much as it
     * takes for the given share of the time to go to collections.
     */
    private void press(double share) {
        if (share <= 0) {
            held = new ArrayList<>();
            garbage = 0;
            return;
        }
        if (held.isEmpty()) {
            System.gc();
        }
        long collecting = 0, full = 0;
        for (GarbageCollectorMXBean gc : ManagementFactory.getGarbageCollectorMXBeans()) {
            collecting += Math.max(0, gc.getCollectionTime());
            if (gc.getName().equals("MarkSweepCompact")) { // the serial collector's of the old generation
                full = gc.getCollectionCount();
            }
        }
        // What is held since a collection is known after the next one only.
        if (full != collections) {
            collections = full;
            hold();
        }
        long now = System.nanoTime();
        if (garbage == 0) {
            garbage = 8L << 20;
        } else {
            double spent = (collecting - collectingBefore) * 1e6 / Math.max(1, now - lookedAt);
            garbage = (long) Math.max(1 << 20, Math.min(64 << 20, garbage * (spent < share ? 1.25 : 0.8)));
        }
        collectingBefore = collecting;
        lookedAt = now;
        byte[] last = null;
        for (long n = 0; n < garbage; n += BLOCK) {
            last = new byte[BLOCK];
            LockSupport.parkNanos(400_000_000L / (garbage / BLOCK));
        }
        made += last.length; // or the compiler may leave it out
    }

    /** Fills what the last collection of the old generation left free in it. */
    private void hold() {
        for (MemoryPoolMXBean pool : ManagementFactory.getMemoryPoolMXBeans()) {
            if (!pool.getName().equals("Tenured Gen")) {
                continue;
            }
            long max = pool.getUsage().getMax(), live = pool.getCollectionUsage().getUsed();
            for (; live < max * FULL && held.size() < 4096; live += BLOCK) {
                held.add(new byte[BLOCK]);
            }
            for (; live > max * OVERFULL && !held.isEmpty(); live -= BLOCK) {
                held.remove(held.size() - 1);
            }
        }
    }

    Properties all() {
        return now;
    }

    String text(String key) {
        return now.getProperty(key, "").trim();
    }

    double number(String key, double otherwise) {
        String v = now.getProperty(key);
        if (v == null) {
            return otherwise;
        }
        try {
            return Double.parseDouble(v.trim());
        } catch (NumberFormatException e) {
            return otherwise;
        }
    }
}
