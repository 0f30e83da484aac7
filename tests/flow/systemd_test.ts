/** sd_notify: what systemd is told of an instance, and when. */
import assert from "node:assert/strict";
import { makeLog } from "../../lib/log.ts";
import { Systemd } from "../../lib/systemd.ts";
import { Vitals } from "../../lib/telemetry/vitals.ts";
import { notifySocket } from "../support/notify_socket.ts";
import { streaming, strict } from "../support/run.ts";
import { makeWorld } from "../support/world.ts";

Deno.test("systemd is told when the writer is ready, that it lives, and that it stops", strict, async () => {
  await using systemd = await notifySocket();
  await using world = await makeWorld();
  const program = world.program([], { ...systemd.env, WATCHDOG_USEC: "600000" });
  await systemd.until("READY=1");
  assert.deepEqual(systemd.told.filter((message) => message === "READY=1").length, 1);
  await systemd.until(/^STATUS=leader: fresh as of /);
  const beats = () => systemd.told.filter((message) => message === "WATCHDOG=1").length;
  const before = beats();
  await program.until(() => beats() >= before + 3);
  program.kill("SIGTERM");
  assert.equal((await program.status).code, 0);
  assert.ok(systemd.told.includes("STOPPING=1"), systemd.told.join());
  assert.deepEqual(
    [...Deno.readDirSync(systemd.env.RUNTIME_DIRECTORY)].map(({ name }) => name),
    ["notify"],
    "its own socket is gone",
  );
});

Deno.test("systemd is told that a standby is ready", strict, async () => {
  await using systemd = await notifySocket();
  await using world = await makeWorld();
  await streaming(world);
  world.program([], systemd.env);
  await systemd.until("READY=1");
  await systemd.until("STATUS=standby: another instance is the writer");
  assert.ok(!systemd.told.includes("WATCHDOG=1"), "nobody asked for it");
});

Deno.test(
  "systemd is told when settings are read again, by a time that `notify-reload` takes",
  strict,
  async () => {
    await using systemd = await notifySocket();
    await using world = await makeWorld();
    const program = world.program([], systemd.env);
    await systemd.until("READY=1");
    const asked = Deno.osUptime();
    program.kill("SIGHUP");
    const reloading = () => systemd.told.findIndex((message) => message.startsWith("RELOADING=1\n"));
    await program.until(() => reloading() >= 0 && systemd.told.slice(reloading()).includes("READY=1"));
    const [, usec] = /\nMONOTONIC_USEC=(\d+)$/.exec(systemd.told[reloading()])!;
    assert.ok(Number(usec) > asked * 1_000_000);
  },
);

Deno.test("a socket that cannot be used is told once, and holds nothing up", strict, async () => {
  await using world = await makeWorld();
  const program = await streaming(world, [], 20_000, { NOTIFY_SOCKET: "@abstract" });
  const told = program.logs.filter(({ code }) => code === "EPS-722");
  assert.deepEqual(told.map(({ level, socket, error }) => [level, socket, error]), [
    ["warn", "@abstract", "wanted a path"],
  ]);
});

Deno.test(
  "before it has a place it is not ready, and a loop that stands still gives no sign of life",
  strict,
  async () => {
    await using socket = await notifySocket();
    const env = { ...socket.env, WATCHDOG_USEC: "1000" };
    for (const [name, value] of Object.entries(env)) Deno.env.set(name, value);
    const vitals = new Vitals();
    {
      const stop = new AbortController();
      const log = makeLog({ level: "warn", format: "json" });
      await using _ = new Systemd(vitals, { freshTimeoutMs: () => 10_000, signal: stop.signal, log });
      await socket.until("STATUS=starting: not connected yet"); // what else a look has to say goes before this line
      vitals.fails("no server", "etcd");
      await socket.until(/^STATUS=neither leader nor standby/);
      assert.ok(!socket.told.includes("READY=1"));
      vitals.standsBy();
      vitals.beatAt -= 121_000;
      await socket.until(/^STATUS=standby: PostgreSQL has not answered/);
      assert.ok(!socket.told.slice(socket.told.indexOf("READY=1")).includes("WATCHDOG=1"));
      vitals.beat();
      await socket.until("WATCHDOG=1");
    }
    for (const name of Object.keys(env)) Deno.env.delete(name);
  },
);
