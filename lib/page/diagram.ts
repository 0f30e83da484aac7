/** The state machine as a drawing, made from its table. The page lights the state that it is told. */
import { OUTCOMES, type State, STATES, TRANSITIONS } from "../machine.ts";

interface Point {
  x: number;
  y: number;
}

/** Where each state stands, and on which side the arrows go that come back to it. */
const PLACES: Record<State, Point & { loop: "right" | "below" }> = {
  "bootstrap": { x: 150, y: 34, loop: "right" },
  "streaming": { x: 150, y: 138, loop: "right" },
  "draining": { x: 340, y: 138, loop: "right" },
  "compaction-resync": { x: 150, y: 262, loop: "below" },
};
const WIDTH = 400;
const HEIGHT = 332;
const BOX = { height: 32, padding: 13, letter: 7.3 };
const LINE = 13;
/** Between the two arrows of a pair. */
const APART = 9;

interface Edge {
  from: State;
  to: State;
  outcomes: string[];
}

/** All transitions, folded by where they go. */
function edges(): Edge[] {
  return STATES.flatMap((from) => {
    const possible = OUTCOMES.filter((outcome) => TRANSITIONS[from][outcome] !== null);
    const byTarget = Map.groupBy(possible, (outcome) => TRANSITIONS[from][outcome]!);
    return [...byTarget].map(([to, outcomes]) => ({ from, to, outcomes }));
  });
}

/** An SVG element without styles of its own; a state's group has the id `state-<name>`. */
export function drawing(): string {
  const all = edges();
  const arrows = all.map((edge) =>
    edge.from === edge.to ? loop(edge) : arrow(edge, all.some(({ from, to }) => isBack(edge, from, to)))
  );
  return [
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" aria-hidden="true" focusable="false">`,
    `<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">`,
    `<path d="M0 0.8 8 4 0 7.2z"/></marker></defs>`,
    ...arrows,
    ...STATES.map(box),
    "</svg>",
  ].join("\n");
}

function isBack(edge: Edge, from: State, to: State): boolean {
  return from === edge.to && to === edge.from;
}

function box(state: State): string {
  const { x, y } = PLACES[state];
  const width = widthOf(state);
  const corner = `x="${x - width / 2}" y="${y - BOX.height / 2}"`;
  return `<g class="state" id="state-${state}"><rect ${corner} width="${width}" height="${BOX.height}" rx="5"/>` +
    `<text x="${x}" y="${y + 4.5}" text-anchor="middle">${state}</text></g>`;
}

function widthOf(state: State): number {
  return Math.round(state.length * BOX.letter + 2 * BOX.padding);
}

/** A straight arrow, with its outcomes on the side that it leaves to its right, or away from the middle of all. */
function arrow({ from, to, outcomes }: Edge, paired: boolean): string {
  const [a, b] = [PLACES[from], PLACES[to]];
  const length = Math.hypot(b.x - a.x, b.y - a.y);
  const along = { x: (b.x - a.x) / length, y: (b.y - a.y) / length };
  const right = { x: -along.y, y: along.x };
  const side = paired ? 1 : outward(a, b, right);
  const shift = paired ? APART : 0;
  const moved = (p: Point) => ({ x: p.x + right.x * shift, y: p.y + right.y * shift });
  const [start, end] = [border(moved(a), along, from), border(moved(b), { x: -along.x, y: -along.y }, to)];
  const middle = { x: (start.x + end.x) / 2, y: (start.y + end.y) / 2 };
  const normal = { x: right.x * side, y: right.y * side };
  return path(`M${at(start)}L${at(end)}`) + label(outcomes, middle, normal);
}

/** 1 or -1: towards which side of the line the drawing ends sooner. */
function outward(a: Point, b: Point, right: Point): 1 | -1 {
  const places = Object.values(PLACES);
  const mean = (pick: (p: Point) => number) => places.reduce((sum, p) => sum + pick(p), 0) / places.length;
  const [x, y] = [(a.x + b.x) / 2 - mean((p) => p.x), (a.y + b.y) / 2 - mean((p) => p.y)];
  return x * right.x + y * right.y >= 0 ? 1 : -1;
}

/** Where a line from within a state's box leaves it. */
function border(from: Point, along: Point, state: State): Point {
  const { x, y } = PLACES[state];
  const reach = (toward: number, offset: number, half: number) =>
    toward === 0 ? Infinity : (Math.sign(toward) * half - offset) / toward;
  const t = Math.min(
    reach(along.x, from.x - x, widthOf(state) / 2),
    reach(along.y, from.y - y, BOX.height / 2),
  ) + 2;
  return { x: from.x + along.x * t, y: from.y + along.y * t };
}

function loop({ from, outcomes }: Edge): string {
  const { x, y, loop: side } = PLACES[from];
  if (side === "right") {
    const edge = x + widthOf(from) / 2 + 2;
    const d = `M${edge} ${y - 8}C${edge + 34} ${y - 20} ${edge + 34} ${y + 20} ${edge} ${y + 8}`;
    return path(d) + label(outcomes, { x: edge + 26, y }, { x: 1, y: 0 });
  }
  const edge = y + BOX.height / 2 + 2;
  const d = `M${x - 14} ${edge}C${x - 24} ${edge + 34} ${x + 24} ${edge + 34} ${x + 14} ${edge}`;
  return path(d) + label(outcomes, { x: x + 14, y: edge + 22 }, { x: 1, y: 0 });
}

function path(d: string): string {
  return `<path class="arrow" d="${d}" marker-end="url(#tip)"/>`;
}

/** Outcomes, one on each line, beside a point: wholly on the side that `normal` points to. */
function label(outcomes: string[], beside: Point, normal: Point): string {
  const anchor = normal.x > 0.3 ? "start" : normal.x < -0.3 ? "end" : "middle";
  const lines = outcomes.length - 1;
  const above = normal.y > 0.3 ? -0.5 : normal.y < -0.3 ? lines + 0.1 : lines / 2 - 0.3;
  const x = beside.x + normal.x * 7;
  const y = beside.y + normal.y * 6 - above * LINE;
  return outcomes.map((outcome, i) =>
    `<text class="outcome" x="${round(x)}" y="${
      round(y + i * LINE)
    }" text-anchor="${anchor}">${outcome}</text>`
  ).join("");
}

function at({ x, y }: Point): string {
  return `${round(x)} ${round(y)}`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
