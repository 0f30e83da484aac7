/** The table that a run prints, and the one in docs/performance.md. */
import type { Row } from "./bench.ts";
import type { Sample, Summary } from "./stats.ts";
import { figure, OURS, summarize } from "./stats.ts";

/** Where it was measured. */
export interface Machine {
  cores: number;
  memoryGb: number;
  disk: string;
  kernel: string;
  postgres: string;
  etcd: string;
  /** Of this repository. */
  commit: string;
  measuredAt: string;
  /** What was measured: name and version. */
  programs: { name: string; version: string }[];
  /** Peers, and programs of the limits, that are not on PATH. */
  missing: string[];
}

export interface Results {
  machine: Machine;
  samples: Sample[];
}

const HEAD = ["measure", "who", "median", "min–max", "÷ ours", "memory", "CPU: program + PostgreSQL"];

function cells(line: Summary): string[] {
  const { median, least, most, unit, failures, memoryMb, programCpu, postgresCpu } = line;
  const failed = failures.length ? [`failed: ${failures.join("; ")}`] : [];
  return [
    line.measure,
    line.who,
    [...(median === undefined ? [] : [`${figure(median)} ${unit}`]), ...failed].join("; "),
    median === undefined || line.rounds === 1 ? "" : `${figure(least!)}–${figure(most!)}`,
    line.ratio === undefined || line.who === OURS ? "" : line.ratio.toFixed(2),
    memoryMb === undefined ? "" : `${Math.round(memoryMb)} MB`,
    programCpu === undefined ? "" : `${programCpu.toFixed(1)} + ${postgresCpu!.toFixed(1)} s`,
  ];
}

function aligned(lines: string[][]): string[] {
  const widths = HEAD.map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  return lines.map((line) => line.map((cell, column) => cell.padEnd(widths[column])).join("  ").trimEnd());
}

/** What is printed of one row, when it is done. */
export function rowText(row: Row, samples: Sample[]): string {
  const lines = summarize(samples.filter((sample) => sample.row === row.name)).map(cells);
  return [`${row.name}: ${row.what}`, ...aligned([HEAD, ...lines]).map((line) => `  ${line}`)].join("\n");
}

/** What was measured, and on what. */
export function headline({ machine }: Results): string[] {
  return [
    `${machine.cores} cores, ${machine.memoryGb} GB, data on ${machine.disk}, Linux ${machine.kernel}; ` +
    `PostgreSQL ${machine.postgres}, etcd ${machine.etcd}, both with their default durability`,
    ...machine.programs.map(({ name, version }) => `${name}: ${version}`),
    ...machine.missing.map((name) => `${name}: left out, it is not on PATH`),
  ];
}

function markdownTable(lines: string[][]): string {
  const widths = HEAD.map((_, column) => Math.max(3, ...[HEAD, ...lines].map((line) => line[column].length)));
  const text = (line: string[]) => `| ${line.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`;
  return [text(HEAD), text(widths.map((width) => "-".repeat(width))), ...lines.map(text)].join("\n");
}

/** The generated part of docs/performance.md. */
export function markdown(results: Results, rows: Row[]): string {
  const parts = [headline(results).map((line) => `- ${line}`).join("\n")];
  for (const row of rows) {
    const samples = results.samples.filter((sample) => sample.row === row.name);
    if (samples.length === 0) continue;
    const rounds = Math.max(...samples.map(({ round }) => round));
    parts.push(
      `### ${row.name}`,
      `${row.what[0].toUpperCase()}${row.what.slice(1)}; ${rounds === 1 ? "one round" : `${rounds} rounds`}.`,
      `![${row.name}](plots/${row.name}.svg)`,
      markdownTable(summarize(samples).map(cells)),
    );
  }
  return parts.join("\n\n");
}

const BLOCK = /(<!-- figures: deno task bench --docs -->)[\s\S]*?(<!-- end -->)/;

/** The page with the figures of these results. @throws {Error} it has no place for them */
export function withFigures(page: string, results: Results, rows: Row[]): string {
  if (!BLOCK.test(page)) throw new Error("Cannot find the figures' place in docs/performance.md");
  return page.replace(BLOCK, (_, open, close) => `${open}\n\n${markdown(results, rows)}\n\n${close}`);
}
