import assert from "node:assert/strict";
import {
  diagram,
  isWhole,
  next,
  type Outcome,
  OUTCOMES,
  type State,
  STATES,
  TRANSITIONS,
} from "../../lib/machine.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

/** The table of docs/how-it-works.md, written down a second time; what is not here cannot happen. */
const wanted: [State, Outcome, State][] = [
  ["bootstrap", "caught-up", "streaming"],
  ["bootstrap", "history-lost", "bootstrap"],
  ["bootstrap", "history-replaced", "bootstrap"],
  ["streaming", "wal-waiting", "draining"],
  ["streaming", "history-lost", "compaction-resync"],
  ["streaming", "far-behind", "compaction-resync"],
  ["streaming", "history-replaced", "compaction-resync"],
  ["draining", "wal-empty", "streaming"],
  ["draining", "history-lost", "compaction-resync"],
  ["draining", "far-behind", "compaction-resync"],
  ["draining", "history-replaced", "compaction-resync"],
  ["compaction-resync", "caught-up", "streaming"],
  ["compaction-resync", "history-lost", "compaction-resync"],
  ["compaction-resync", "history-replaced", "compaction-resync"],
];

for (const from of STATES) {
  for (const outcome of OUTCOMES) {
    const to = wanted.find(([state, on]) => state === from && on === outcome)?.[2];
    Deno.test(`${from}, ${outcome}: ${to ?? "cannot happen"}`, strict, () => {
      if (to) return assert.equal(next(from, outcome), to);
      assert.throws(() => next(from, outcome), {
        message: `Cannot leave state '${from}' on '${outcome}': the machine has no such transition`,
      });
    });
  }
}

Deno.test("the table has a cell for each outcome in each state, and no other", strict, () => {
  assert.deepEqual(Object.keys(TRANSITIONS).sort(), [...STATES].sort());
  for (const state of STATES) assert.deepEqual(Object.keys(TRANSITIONS[state]).sort(), [...OUTCOMES].sort());
});

Deno.test("every state can be reached, and left", strict, () => {
  const reached = new Set<State>(["bootstrap"]);
  for (let size = 0; size !== reached.size;) {
    size = reached.size;
    for (const from of reached) for (const to of Object.values(TRANSITIONS[from])) if (to) reached.add(to);
  }
  assert.deepEqual([...reached].sort(), [...STATES].sort());
  for (const state of STATES) assert.ok(Object.values(TRANSITIONS[state]).some((to) => to && to !== state));
});

Deno.test("readers can use the mirror where no scan runs", strict, () => {
  assert.deepEqual(STATES.filter(isWhole), ["streaming", "draining"]);
});

Deno.test("the diagram has an arrow for each transition", strict, () => {
  const lines = diagram().split("\n");
  const names = new Map(lines.flatMap((line) => {
    const [, name, id] = /^ {2}state "(.*)" as (\S+)$/.exec(line) ?? [];
    return id ? [[id, name] as const] : [];
  }));
  const arrows = lines.flatMap((line) => {
    const [, from, to, outcomes] = /^ {2}(\w+) --> (\w+): (.*)$/.exec(line) ?? [];
    return (outcomes?.split(", ") ?? []).map((outcome) =>
      `${names.get(from) ?? from} ${outcome} ${names.get(to) ?? to}`
    );
  });
  assert.deepEqual(arrows.sort(), wanted.map((cell) => cell.join(" ")).sort());
});
