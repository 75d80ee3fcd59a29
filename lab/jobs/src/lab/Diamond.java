package lab;

import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;

/** Two sources, a branch each, a keyed join, a sink. */
public final class Diamond {
    private Diamond() {}

    public static void main(String[] args) throws Exception {
        Shape s = new Shape(args);
        DataStream<Tuple2<Long, String>> clicks = s.plain(s.source("clicks", null), "enrich", "join");
        DataStream<Tuple2<Long, String>> orders = s.plain(s.source("orders", null), "validate", "join");
        s.sink(s.join(clicks, orders, "join"), "store");
        s.run();
    }
}
