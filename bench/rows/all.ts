import type { Row } from "../bench.ts";
import { archive } from "./archive.ts";
import { backlog } from "./backlog.ts";
import { batches } from "./batches.ts";
import { bootstrap } from "./bootstrap.ts";
import { cost } from "./cost.ts";
import { drain } from "./drain.ts";
import { keys } from "./keys.ts";
import { latencyIn } from "./latency_in.ts";
import { latencyOut } from "./latency_out.ts";
import { restart, resync } from "./restart.ts";
import { singles } from "./singles.ts";
import { wal } from "./wal.ts";
import { writers } from "./writers.ts";

/** Every row, in the order in which they are measured and shown. */
export const ROWS: Row[] = [
  bootstrap,
  restart,
  resync,
  singles,
  batches,
  backlog,
  latencyIn,
  drain,
  latencyOut,
  writers,
  cost,
  keys,
  wal,
  archive,
];
