/** Samples, and what is made of them. */

export interface Sample {
  row: string;
  /** What of the row, such as '200,000 keys'. */
  measure: string;
  /** Of a unit that ends with '/s' more is better, of any other less. */
  unit: string;
  who: string;
  round: number;
  /** null: it failed, and `failed` says how. */
  value: number | null;
  failed?: string;
  /** Highest resident memory of the process until then. */
  memoryMb?: number;
  /** CPU seconds of the process, and of its backends in PostgreSQL. */
  programCpu?: number;
  postgresCpu?: number;
}

export interface Summary {
  row: string;
  measure: string;
  unit: string;
  who: string;
  rounds: number;
  /** undefined where no round succeeded. */
  median?: number;
  least?: number;
  most?: number;
  /** The median by ours. */
  ratio?: number;
  memoryMb?: number;
  programCpu?: number;
  postgresCpu?: number;
  failures: string[];
}

export const OURS = "etcd-pg-sync";

/** The value below which the share `p` of the samples lies (nearest rank). */
export function percentile(samples: number[], p: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(p * sorted.length) - 1)];
}

/** The middle one, or the mean of the two in the middle. */
export function median(samples: number[]): number {
  const sorted = samples.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** One line for each measure and who, in the order in which they came. */
export function summarize(samples: Sample[]): Summary[] {
  const groups = Map.groupBy(samples, ({ row, measure, who }) => JSON.stringify([row, measure, who]));
  const summaries = [...groups.values()].map(summary);
  for (const line of summaries) {
    const ours = summaries.find((s) => s.row === line.row && s.measure === line.measure && s.who === OURS);
    if (line.median !== undefined && ours?.median) line.ratio = line.median / ours.median;
  }
  return summaries;
}

function summary(samples: Sample[]): Summary {
  const [{ row, measure, unit, who }] = samples;
  const of = (name: "value" | "memoryMb" | "programCpu" | "postgresCpu") =>
    samples.map((sample) => sample[name]).filter((value) => typeof value === "number");
  const middle = (values: number[]) => values.length ? median(values) : undefined;
  const values = of("value");
  return {
    row,
    measure,
    unit,
    who,
    rounds: values.length,
    median: middle(values),
    least: values.length ? Math.min(...values) : undefined,
    most: values.length ? Math.max(...values) : undefined,
    memoryMb: middle(of("memoryMb")),
    programCpu: middle(of("programCpu")),
    postgresCpu: middle(of("postgresCpu")),
    failures: [...new Set(samples.flatMap(({ failed }) => failed ?? []))],
  };
}

/** Three digits that count; a count, and what has more before its point, in full: '40', '1,234'. */
export function figure(value: number): string {
  if (value >= 1_000 || Number.isInteger(value)) return Math.round(value).toLocaleString("en-US");
  return value.toPrecision(3);
}
