package lab;

import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;

/** Keyed right behind the source; what is priced is read twice. */
public final class Orders {
    private Orders() {}

    public static void main(String[] args) throws Exception {
        Shape s = new Shape(args);
        SingleOutputStreamOperator<Tuple2<Long, String>> priced = s.plain(s.keyed(s.source("orders", "dedupe"), "dedupe", null), "price", "totals");
        s.sink(s.keyed(priced, "totals", null), "notify");
        s.sink(priced, "archive");
        s.run();
    }
}
