/** What becomes of what was measured before. */
import { AggregationTemporality, InstrumentType } from "@opentelemetry/sdk-metrics";

/**
 * A gauge says what is so now: of what was not observed this time nothing is told. Else who was once the leader would tell
 * for ever what etcd had answered then. The others are as `otherwise` says.
 */
export function forgetting(
  otherwise: (instrument: InstrumentType) => AggregationTemporality = () => AggregationTemporality.CUMULATIVE,
): (instrument: InstrumentType) => AggregationTemporality {
  return (instrument) =>
    instrument === InstrumentType.OBSERVABLE_GAUGE ? AggregationTemporality.DELTA : otherwise(instrument);
}
