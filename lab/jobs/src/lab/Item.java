package lab;

import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;

/** A record: a key and ballast, about 450 bytes, so that few of them fill a buffer. */
final class Item {
    static final TypeInformation<Tuple2<Long, String>> TYPE = Types.TUPLE(Types.LONG, Types.STRING);
    static final String BALLAST = "x".repeat(440);
    static final int KEYS = 20_000;

    private Item() {}
}
