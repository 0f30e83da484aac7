import type { Row } from "../bench.ts";
import { batches } from "./batches.ts";
import { bootstrap } from "./bootstrap.ts";
import { drain } from "./drain.ts";
import { latencyIn } from "./latency_in.ts";
import { latencyOut } from "./latency_out.ts";
import { singles } from "./singles.ts";
import { writers } from "./writers.ts";

/** Every row, in the order in which they are measured and shown. */
export const ROWS: Row[] = [bootstrap, singles, batches, latencyIn, drain, latencyOut, writers];
