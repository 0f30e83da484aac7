/** One instance of the program: behind proxies of its own, started again whenever it ends, as a service manager does. */
import { type Build, type LogLine, Program } from "../support/program.ts";
import { pause } from "../support/eventually.ts";
import { Proxy } from "./proxy.ts";

/** It could not connect: the only end that faults may bring about. */
const CONNECTION = 2;
const RESTART_MS = 300;

export interface InstanceOptions {
  name: string;
  build: Build;
  postgresDsn: string;
  etcdDsn: string;
  args?: string[];
}

export class Instance implements AsyncDisposable {
  readonly postgres: Proxy;
  readonly etcd: Proxy;
  /** What it wrote, of all its lives. */
  readonly output: string[] = [];
  /** Ends that no fault explains. */
  readonly brokenDown: string[] = [];
  #program: Program;
  #killed = false;
  #stopped = false;
  readonly #keeping: Promise<void>;

  constructor(readonly options: InstanceOptions) {
    this.postgres = Proxy.listen(Number(new URL(options.postgresDsn).port));
    this.etcd = Proxy.listen(Number(/:(\d+)/.exec(options.etcdDsn)![1]));
    this.#program = this.#start();
    this.#keeping = this.#keep();
  }

  get pid(): number {
    return this.#program.pid;
  }

  get logs(): LogLine[] {
    return this.#program.logs;
  }

  /** SIGKILL; it starts again at once. Resolves when it has ended. */
  async kill(): Promise<void> {
    this.#killed = true;
    const program = this.#program;
    program.kill("SIGKILL");
    await program.status;
  }

  freeze(): void {
    this.#program.kill("SIGSTOP");
  }

  wake(): void {
    this.#program.kill("SIGCONT");
  }

  heal(): void {
    this.postgres.heal();
    this.etcd.heal();
    this.wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.heal();
    await this.#program[Symbol.asyncDispose]();
    await this.#keeping;
    await this.postgres[Symbol.asyncDispose]();
    await this.etcd[Symbol.asyncDispose]();
  }

  #start(): Program {
    const { build, postgresDsn, etcdDsn, args = [] } = this.options;
    const flags = [
      "start",
      "--postgres-dsn",
      through(this.postgres, postgresDsn),
      "--etcd-dsn",
      through(this.etcd, etcdDsn),
      "--log-format",
      "json",
      "--log-level",
      "debug",
    ];
    return new Program([...flags, ...args], {}, build);
  }

  async #keep(): Promise<void> {
    for (;;) {
      const program = this.#program;
      const { code, signal } = await program.status;
      this.output.push(...program.output, `-- ended with ${signal ?? `code ${code}`}`);
      if (this.#stopped) return;
      if (!this.#killed && code !== CONNECTION) {
        this.brokenDown.push(`instance ${this.options.name} ended with code ${code}:\n${program.tail(5)}`);
      }
      this.#killed = false;
      await pause(RESTART_MS);
      if (this.#stopped) return;
      this.#program = this.#start();
    }
  }
}

/** The DSN with the proxy in the server's place. */
function through({ port }: Proxy, dsn: string): string {
  return dsn.replace(/127\.0\.0\.1:\d+/, `127.0.0.1:${port}`);
}
