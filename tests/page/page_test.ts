/** The status page as a browser has it: what it loads, how it is used, what it shows of the data. */
import assert from "node:assert/strict";
import { quiet } from "../support/history.ts";
import { Browser, browserTest, VIEWS } from "../support/browser.ts";
import { Door } from "../support/pages.ts";
import { renewals, streaming, strict } from "../support/run.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

const MOST_BYTES = 150_000;

/** A conflict: a finding, an event, and a point in a plot. */
async function lose(world: World, key: string): Promise<void> {
  await world.etcd.put(key, "theirs");
  await quiet(world);
  await world.sql("select etcd_set($1, 'ours', 1)", [key]);
  await eventually(async () =>
    (await world.sql("select from etcd_wal where status = 'conflict'")).length === 1
  );
}

browserTest("the page loads from its own host alone, is small, and axe finds nothing", async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, [...door.args, "--page-values"]);
  await lose(world, world.key("a"));
  await using browser = await Browser.open();
  for (const [name, view] of Object.entries(VIEWS)) {
    const visit = await browser.visit(door.url, view);
    await visit.untilText("#findings", /EPS-704/);
    await visit.untilText("#plots figure:nth-child(4) .value", /^1$/);
    await visit.page.fill("#key", world.key("a"));
    await visit.page.press("#key", "Enter");
    await visit.untilText("#versions", /theirs/);
    assert.deepEqual(visit.complaints, [], name);
    assert.ok(visit.urls.length >= 6, visit.urls.join());
    assert.deepEqual(visit.urls.filter((url) => !url.startsWith(`${door.url}/`)), [], name);
    const sideways = await visit.page.evaluate("document.documentElement.scrollWidth - innerWidth");
    assert.ok(sideways as number <= 0, `${name}: ${sideways} pixels too wide`);
    assert.deepEqual(await visit.violations(), [], name);
  }
  const paths = ["/", "/page.css", "/page.js", "/uplot.js", "/icon.svg"];
  const sizes = await Promise.all(paths.map(async (path) => (await door.get(path)).text.length));
  assert.ok(sizes.reduce((sum, size) => sum + size) < MOST_BYTES, `${sizes}`);
});

browserTest("a key's history, by keyboard", async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, [...door.args, "--page-values"]);
  const key = world.key("flag");
  await world.etcd.put(key, "<b>one</b>");
  await world.etcd.delete(key);
  await world.etcd.put(key, Uint8Array.of(0xff, 0x00));
  await world.etcd.put(`${key}/long`, "x".repeat(5_000));
  await quiet(world);
  await using browser = await Browser.open();
  const { page, ...visit } = await browser.visit(door.url).then((visit) => ({
    page: visit.page,
    untilText: (selector: string, wanted: RegExp) => visit.untilText(selector, wanted),
  }));
  await visit.untilText("#link", /^live$/);
  const focused = () => page.evaluate("document.activeElement.id || document.activeElement.className");
  const seen: unknown[] = [];
  while (await focused() !== "key") {
    await page.keyboard.press("Tab");
    seen.push(await focused());
    assert.ok(seen.length < 20, `not reached: ${seen.join()}`);
  }
  assert.equal(seen.filter((name) => name === "plot").length, 4);
  await page.keyboard.type(key);
  await page.keyboard.press("Enter");
  await visit.untilText("#found", /: 3 revisions, newest first$/);
  const values = await page.locator("#versions tbody tr td:last-child").allInnerTexts();
  assert.deepEqual(values, ["\\xff00", "deleted", "<b>one</b>"]);
  while (await focused() !== "versions") await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter"); // the other key that begins so
  await visit.untilText("#versions", /x{2000}… of 5,000 bytes/);
});

browserTest("arrow keys read the plots", async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, door.args);
  await using browser = await Browser.open();
  const visit = await browser.visit(door.url);
  await visit.untilText("#plots figure:nth-child(2) .value", /\d s$/);
  await visit.page.locator(".plot").first().focus();
  await visit.page.keyboard.press("ArrowLeft");
  await visit.untilText("#readout", /^at \d\d:\d\d:\d\dZ$/);
  await visit.page.keyboard.press("Escape");
  await visit.page.locator("#readout").waitFor({ state: "hidden" }); // nothing in it
});

browserTest("what was before the page was opened is in its plots", async () => {
  await using world = await makeWorld();
  const door = new Door();
  const program = await streaming(world, door.args);
  await lose(world, world.key("a"));
  // nobody looks: the samples come from the program itself
  const { samples } = await eventually(async () => {
    const frame = await door.frame();
    return frame.samples.some((sample) => sample[5] === 1) && frame.samples.length >= 3 ? frame : undefined;
  });
  assert.ok(samples.every((sample, i) => i === 0 || sample[0]! > samples[i - 1][0]!));
  await using browser = await Browser.open();
  const visit = await browser.visit(door.url);
  await visit.untilText("#plots figure:nth-child(4) .value", /^1$/);
  await program[Symbol.asyncDispose](); // SIGKILL after ten seconds
  assert.deepEqual(await program.status, { code: 0, signal: null }, "an open page holds up no end");
});

Deno.test("PostgreSQL is asked while somebody looks, and not when nobody does", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, door.args);
  /** The page's own session, and the last statement of the status' one. */
  const asked = async () => {
    const rows = await world.sql(
      `select application_name as name, query_start as at from pg_stat_activity
       where application_name ~ '(page|status)$' and datname = current_database() order by 1`,
    );
    return { names: rows.map(({ name }) => name.split(" ").at(-1)), at: rows.at(-1)?.at.getTime() };
  };
  assert.deepEqual((await asked()).names, []);
  const response = await fetch(`${door.url}/events`);
  const reader = response.body!.getReader();
  await reader.read();
  const first = await asked();
  assert.deepEqual(first.names, ["page", "status"]);
  await eventually(async () => {
    await reader.read();
    return (await asked()).at > first.at;
  });
  await reader.cancel();
  await eventually(async () => (await asked()).names.length === 1); // it rests
  const last = await asked();
  await renewals(world, 3);
  assert.deepEqual(await asked(), last);
});
