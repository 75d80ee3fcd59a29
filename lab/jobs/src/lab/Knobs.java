package lab;

import java.io.FileInputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

/** The knobs of one job, read again every half second; one set per TaskManager and job. */
final class Knobs {
    private static final java.util.Map<String, Knobs> ALL = new java.util.HashMap<>();
    static final String WORKER = System.getProperty("dhalion.worker", "");

    private final String file;
    private volatile Properties now = new Properties();
    private List<byte[]> held = new ArrayList<>();

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
        while (true) {
            try {
                Thread.sleep(500);
            } catch (InterruptedException e) {
                return;
            }
            load();
            try {
                fill(number("memory." + WORKER, 0));
            } catch (OutOfMemoryError e) {
                held = new ArrayList<>();
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

    /** Holds live memory until the share of the heap is in use after a collection, and makes garbage beside it. */
    private void fill(double share) {
        if (share <= 0) {
            held = new ArrayList<>();
            return;
        }
        Runtime r = Runtime.getRuntime();
        long max = r.maxMemory();
        for (int i = 0; i < 200 && r.totalMemory() - r.freeMemory() < max * share; i++) {
            byte[] block = new byte[256 * 1024];
            block[i] = 1;
            held.add(block);
        }
        // Short-lived garbage: with little room left every few megabytes cost a collection of the whole heap.
        long until = System.nanoTime() + 450_000_000L;
        byte[] last = null;
        while (System.nanoTime() < until) {
            for (int i = 0; i < 16; i++) {
                last = new byte[64 * 1024];
            }
            java.util.concurrent.locks.LockSupport.parkNanos(8_000_000L);
        }
        if (last != null && last.length == 0) {
            throw new IllegalStateException();
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
