/** docs/use-cases.md, section by section: what it says is what happens. */
import assert from "node:assert/strict";
import { runSteps, stepsUnder } from "../support/steps.ts";
import { makeWorld, type World } from "../support/world.ts";

const page = Deno.readTextFileSync(new URL("../../docs/use-cases.md", import.meta.url));
const headings = [...page.matchAll(/^## (.+)$/gm)].map(([, heading]) => heading);

/** Roles belong to the server: those that a section makes are dropped with its world. */
async function dropRoles(world: World, section: string): Promise<void> {
  for (const [, role] of section.matchAll(/^create role (\w+)/gm)) {
    const [known] = await world.sql("select from pg_roles where rolname = $1", [role]);
    if (known) await world.sql(`drop owned by ${role} cascade; drop role ${role}`);
  }
}

Deno.test("a function of a use case that has its owner's rights is not led astray by a caller's tables", () => {
  const functions = [...page.matchAll(/^create function[\s\S]*?as \$\$/gm)].map(([head]) => head);
  const definers = functions.filter((head) => head.includes("security definer"));
  assert.ok(definers.length >= 3);
  for (const head of definers) assert.match(head, /security definer set search_path = public, pg_temp as/);
});

for (const heading of headings) {
  Deno.test(`use case: ${heading}`, { sanitizeOps: true, sanitizeResources: true }, async () => {
    await using world = await makeWorld({ prefix: "/" });
    const steps = stepsUnder(page, heading);
    assert.ok(steps.some(({ shown }) => shown.length > 0), "it shows nothing");
    const commands = steps.map(({ command }) => command).join("\n");
    await dropRoles(world, commands);
    world.program();
    await world.untilState("streaming");
    try {
      await runSteps(steps, world);
    } finally {
      await dropRoles(world, commands);
    }
  });
}
