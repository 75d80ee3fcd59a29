package lab;

import java.io.IOException;
import java.util.Collections;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.base.TypeSerializerSingleton;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;

/**
 * A component whose checkpoints can be made to fail. An exception of snapshotState itself would fail the task, so it
 * is thrown where the state is written, which Flink does beside the task: the checkpoint is declined, the job goes on.
 */
interface Stage extends CheckpointedFunction {
    /** The component, and its job's arguments. */
    Job job();

    String component();

    /** Called once, before the first record. */
    void begin(FunctionInitializationContext c) throws Exception;

    @Override
    default void initializeState(FunctionInitializationContext c) throws Exception {
        c.getOperatorStateStore().getListState(new ListStateDescriptor<>("written", new Written(Knobs.of(job().knobs), component())))
                .update(Collections.singletonList(1));
        begin(c);
    }

    @Override
    default void snapshotState(FunctionSnapshotContext c) {}

    /** A number that cannot be written while checkpoint.fail.COMPONENT is on. */
    final class Written extends TypeSerializerSingleton<Integer> {
        private static final long serialVersionUID = 1;
        private final transient Knobs knobs;
        private final String component;

        /** For Flink, to read what was written. */
        public Written() {
            this(null, "");
        }

        Written(Knobs knobs, String component) {
            this.knobs = knobs;
            this.component = component;
        }

        @Override
        public void serialize(Integer v, DataOutputView out) throws IOException {
            if (knobs != null && knobs.number("checkpoint.fail." + component, 0) > 0) {
                throw new IOException("injected checkpoint failure in " + component);
            }
            out.writeInt(v);
        }

        @Override
        public Integer deserialize(DataInputView in) throws IOException {
            return in.readInt();
        }

        @Override
        public Integer deserialize(Integer reuse, DataInputView in) throws IOException {
            return in.readInt();
        }

        @Override
        public void copy(DataInputView in, DataOutputView out) throws IOException {
            out.writeInt(in.readInt());
        }

        @Override
        public Integer createInstance() {
            return 0;
        }

        @Override
        public Integer copy(Integer v) {
            return v;
        }

        @Override
        public Integer copy(Integer v, Integer reuse) {
            return v;
        }

        @Override
        public boolean isImmutableType() {
            return true;
        }

        @Override
        public int getLength() {
            return 4;
        }

        @Override
        public TypeSerializerSnapshot<Integer> snapshotConfiguration() {
            return new Snapshot();
        }

        public static final class Snapshot extends SimpleTypeSerializerSnapshot<Integer> {
            public Snapshot() {
                super(Written::new);
            }
        }
    }
}
