/** The first minute of README.md, statement by statement: what it says is what happens. */
import assert from "node:assert/strict";
import { withDiagram } from "../support/readme.ts";
import { runSteps, stepsUnder } from "../support/steps.ts";
import { makeWorld } from "../support/world.ts";

const readme = Deno.readTextFileSync(new URL("../../README.md", import.meta.url));

Deno.test(
  "the first minute of the README is true",
  { sanitizeOps: true, sanitizeResources: true },
  async () => {
    await using world = await makeWorld({ prefix: "/" });
    world.program();
    await world.untilState("streaming");
    const steps = stepsUnder(readme, "A first minute");
    for (const language of ["sql", "sh"]) {
      assert.ok(steps.some((step) => step.language === language && step.shown.length > 0), language);
    }
    await runSteps(steps, world);
  },
);

Deno.test("README shows the machine as it is", () => {
  assert.equal(withDiagram(readme), readme, "run `deno task diagram`");
});
