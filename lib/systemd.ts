/**
 * What systemd is told by sd_notify, where it asks for it: `Type=notify` (readiness), `WatchdogSec=` (liveness), and a line
 * for `systemctl status`. It is what the pages /readyz and /healthz say.
 */
import type { Log } from "./log.ts";
import { alive, ready, type Vitals } from "./telemetry/vitals.ts";

const LOOK_EVERY_MS = 250;
/** A line of which only the numbers change is not sent more often. */
const STATUS_EVERY_MS = 5_000;

interface Watched {
  freshTimeoutMs: () => number;
  /** The program stops when it aborts. */
  signal: AbortSignal;
  log: Log;
}

/** Does nothing where no systemd asks for it. */
export class Systemd implements AsyncDisposable {
  readonly #vitals: Vitals;
  readonly #freshTimeoutMs: () => number;
  readonly #door: Door | undefined;
  readonly #watchdogMs = watchdogMs();
  readonly #looks: ReturnType<typeof setInterval> | undefined;
  #isReady = false;
  #beatAt = -Infinity;
  #said = { line: "", good: false, role: "", at: -Infinity };

  constructor(vitals: Vitals, { freshTimeoutMs, signal, log }: Watched) {
    this.#vitals = vitals;
    this.#freshTimeoutMs = freshTimeoutMs;
    this.#door = Door.open(log);
    if (!this.#door) return;
    signal.addEventListener("abort", () => this.#door!.send("STOPPING=1"), { once: true });
    this.#looks = setInterval(() => this.#look(this.#door!), LOOK_EVERY_MS);
  }

  /** Says that settings are read again, and when that is done. */
  async during(reload: () => Promise<void>): Promise<void> {
    if (!this.#door || !this.#isReady) return await reload();
    // `Type=notify-reload` takes a time of CLOCK_MONOTONIC that is not before its signal. Deno has no such clock; the
    // time since the machine started is never behind it, but in whole seconds: so one more
    this.#door.send(`RELOADING=1\nMONOTONIC_USEC=${(Deno.osUptime() + 1) * 1_000_000}`);
    await reload();
    this.#door.send("READY=1");
  }

  #look(door: Door, now = performance.now()): void {
    const { role } = this.#vitals;
    if (!this.#isReady && (role === "leader" || role === "standby")) {
      this.#isReady = true;
      door.send("READY=1");
    }
    const isDue = this.#watchdogMs !== null && now - this.#beatAt >= this.#watchdogMs / 3;
    if (isDue && alive(this.#vitals).good) {
      this.#beatAt = now;
      door.send("WATCHDOG=1");
    }
    const { good, why: line } = ready(this.#vitals, this.#freshTimeoutMs());
    const said = this.#said;
    const isNews = role !== said.role || good !== said.good;
    if (!isNews && (line === said.line || now - said.at < STATUS_EVERY_MS)) return;
    this.#said = { line, good, role, at: now };
    door.send(`STATUS=${line}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#looks);
    await this.#door?.close();
  }
}

/** How long systemd waits for a sign of life, if it does. */
function watchdogMs(): number | null {
  const [usec, pid] = ["WATCHDOG_USEC", "WATCHDOG_PID"].map((name) => Deno.env.get(name));
  if (!usec || (pid && Number(pid) !== Deno.pid)) return null;
  return Number(usec) / 1_000;
}

/** The socket of systemd. */
class Door {
  /** One message after another. */
  #sent: Promise<unknown> = Promise.resolve();
  #isBroken = false;

  private constructor(
    readonly socket: Deno.DatagramConn,
    readonly path: string,
    readonly to: string,
    readonly log: Log,
  ) {}

  /**
   * Deno sends datagrams only from a socket with a name: it is made in the folder that `RuntimeDirectory=` gives. Abstract
   * sockets (`@…`) it does not know (denoland/deno#31660); systemd itself has used none for years.
   */
  static open(log: Log): Door | undefined {
    const to = Deno.env.get("NOTIFY_SOCKET");
    if (!to) return undefined;
    try {
      if (!to.startsWith("/")) throw new Error("wanted a path");
      const path = `${Deno.env.get("RUNTIME_DIRECTORY") ?? "/run/etcd-pg-sync"}/notify-${Deno.pid}`;
      return new Door(Deno.listenDatagram({ transport: "unixpacket", path }), path, to, log);
    } catch (error) {
      complain(log, to, error);
      return undefined;
    }
  }

  /** Never fails: the program works without systemd. */
  send(message: string): void {
    this.#sent = this.#sent.then(async () => {
      try {
        await this.socket.send(new TextEncoder().encode(message), { transport: "unixpacket", path: this.to });
      } catch (error) {
        if (!this.#isBroken) complain(this.log, this.to, error);
        this.#isBroken = true;
      }
    });
  }

  async close(): Promise<void> {
    await this.#sent;
    this.socket.close();
    await Deno.remove(this.path).catch(() => {}); // with its folder, by systemd
  }
}

function complain(log: Log, socket: string, error: unknown): void {
  const fields = { code: "EPS-722", socket, error: (error as Error).message };
  log.warn(fields, "systemd cannot be told how the program stands");
}
