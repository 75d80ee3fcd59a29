package lab;

import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;

/** Eight stages in a row, two of them keyed. */
public final class Chain {
    private Chain() {}

    public static void main(String[] args) throws Exception {
        Shape s = new Shape(args);
        DataStream<Tuple2<Long, String>> v = s.source("events", null);
        v = s.plain(v, "parse", null);
        v = s.plain(v, "clean", "dedupe");
        v = s.keyed(v, "dedupe", null);
        v = s.plain(v, "enrich", null);
        v = s.plain(v, "classify", "aggregate");
        v = s.keyed(v, "aggregate", null);
        v = s.plain(v, "format", null);
        s.sink(v, "archive");
        s.run();
    }
}
