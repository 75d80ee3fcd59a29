package lab;

import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;

/** Keyed windows whose results come in a burst every four seconds. */
public final class Windows {
    private Windows() {}

    public static void main(String[] args) throws Exception {
        Shape s = new Shape(args);
        DataStream<Tuple2<Long, String>> readings = s.plain(s.source("readings", null), "map", "window");
        DataStream<Tuple2<Long, String>> sums = s.windowed(readings, "window");
        s.sink(s.plain(sums, "annotate", null), "report");
        s.run();
    }
}
