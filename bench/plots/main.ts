/**
 * Draws a plot of each row as SVG, from samples on standard input into a folder: a bar for the median, a line from the
 * least to the most. Readable on light and dark.
 *
 * A program of its own, with its own dependencies: `deno compile` puts every package of a lock file into the binary, and
 * this one would be a third of it.
 */
import * as echarts from "echarts";
import { join } from "node:path";
import { figure, OURS, type Sample, summarize, type Summary } from "../stats.ts";

const WIDTH = 820;
const BAR = 26;
const GROUP = 58;
/** Seen on white as well as on black; ours is the only strong colour. */
const TEXT = "#808890",
  LINE = "#80889055",
  OURS_COLOR = "#2f81f7",
  OTHERS_COLOR = "#9aa4ae",
  SPREAD_COLOR = "#d29922";

/** A grid for each measure, one below the other, as units and sizes differ. */
function plot(lines: Summary[]): string {
  const groups = [...Map.groupBy(lines, ({ measure }) => measure).values()];
  const heights = groups.map((group) => group.length * BAR + GROUP);
  const height = heights.reduce((sum, h) => sum + h, 0);
  const tops = heights.map((_, i) => heights.slice(0, i).reduce((sum, h) => sum + h, 0) + 32);
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width: WIDTH, height });
  chart.setOption({
    animation: false,
    textStyle: { fontFamily: "sans-serif", color: TEXT },
    title: groups.map(([{ measure, unit }], i) => ({
      text: `${measure}, ${unit} (${unit.endsWith("/s") ? "more" : "less"} is better)`,
      top: tops[i] - 26,
      left: 0,
      textStyle: { fontSize: 13, color: TEXT },
    })),
    grid: groups.map((group, i) => ({ left: 260, right: 90, top: tops[i], height: group.length * BAR })),
    xAxis: groups.map((_, i) => ({
      type: "value",
      gridIndex: i,
      splitNumber: 4,
      axisLabel: { show: false },
      splitLine: { lineStyle: { color: LINE } },
    })),
    yAxis: groups.map((group, i) => ({
      type: "category",
      gridIndex: i,
      inverse: true,
      data: group.map(({ who }) => who),
      axisTick: { show: false },
      axisLine: { lineStyle: { color: LINE } },
      axisLabel: { color: TEXT, fontSize: 12 },
    })),
    series: groups.flatMap((group, i) => [bars(group, i), spread(group, i)]),
  });
  try {
    return chart.renderToSVGString();
  } finally {
    chart.dispose();
  }
}

function bars(group: Summary[], at: number): echarts.BarSeriesOption {
  return {
    type: "bar",
    xAxisIndex: at,
    yAxisIndex: at,
    barWidth: BAR - 10,
    data: group.map(({ median, who }) => ({
      value: median!,
      itemStyle: { color: who === OURS ? OURS_COLOR : OTHERS_COLOR },
    })),
  };
}

/** The line of the spread, and the median as text behind it. */
function spread(group: Summary[], at: number): echarts.CustomSeriesOption {
  return {
    type: "custom",
    z: 3, // before the bars
    xAxisIndex: at,
    yAxisIndex: at,
    data: group.map(({ least, most }, i) => [i, least!, most!]),
    encode: { x: [1, 2], y: 0 },
    renderItem: ({ dataIndex }, api) => {
      const [from, to] = [1, 2].map((side) => api.coord([api.value(side), api.value(0)]));
      return {
        type: "group",
        children: [
          {
            type: "line",
            shape: { x1: from[0], y1: from[1], x2: to[0], y2: to[1] },
            style: { stroke: SPREAD_COLOR, lineWidth: 2 },
          },
          {
            type: "text",
            x: to[0] + 8,
            y: to[1],
            style: {
              text: figure(group[dataIndex].median!),
              fill: TEXT,
              fontSize: 12,
              verticalAlign: "middle",
            },
          },
        ],
      };
    },
  };
}

const [folder] = Deno.args;
const samples: Sample[] = await new Response(Deno.stdin.readable).json();
await Deno.mkdir(folder, { recursive: true });
for (const [row, lines] of Map.groupBy(summarize(samples), ({ row }) => row)) {
  const measured = lines.filter(({ median }) => median !== undefined);
  if (measured.length > 0) await Deno.writeTextFile(join(folder, `${row}.svg`), `${plot(measured)}\n`);
}
