import assert from "node:assert/strict";
import { drawing } from "../../lib/page/diagram.ts";
import { OUTCOMES, STATES, TRANSITIONS } from "../../lib/machine.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

Deno.test("the page's drawing has each state and each transition of the table", strict, () => {
  const svg = drawing();
  const count = (part: string) => svg.split(part).length - 1;
  for (const state of STATES) assert.equal(count(`id="state-${state}"`), 1, state);
  for (const outcome of OUTCOMES) {
    const leads = STATES.filter((state) => TRANSITIONS[state][outcome] !== null).length;
    assert.equal(count(`>${outcome}</text>`), leads, outcome);
  }
  const arrows = STATES.flatMap((
    state,
  ) => [...new Set(Object.values(TRANSITIONS[state]).filter((to) => to))]);
  assert.equal(count('class="arrow"'), arrows.length);
  assert.doesNotMatch(svg, /NaN|undefined|style=/);
});
