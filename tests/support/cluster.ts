/** An etcd of several members. Their traffic with one another goes through this process, which can cut one off. */

import { join } from "node:path";
import { findEtcd } from "../../lib/embedded/embedded.ts";
import { type EtcdServer, startEtcd } from "../../lib/embedded/etcd.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { defaultSearch } from "../../lib/embedded/search.ts";
import { EtcdDoor } from "./etcd.ts";
import { eventually } from "./eventually.ts";
import { fastEtcd, quiet, tempDir } from "./servers.ts";

export interface Member {
  /** Its name, from `m0` on. */
  name: string;
  port: number;
  /** In hexadecimal, as its peers say it. */
  id(): Promise<string>;
  freeze(): void;
  wake(): void;
  /** SIGKILL; see `OwnEtcd.stop`. */
  stop(): Promise<void>;
}

export interface Cluster extends AsyncDisposable {
  members: Member[];
  leader(): Promise<Member>;
  follower(): Promise<Member>;
  /** Makes this member the leader. */
  promote(member: Member): Promise<void>;
  /** Cuts it off from the others: it serves its clients, and has no leader. */
  partition(member: Member): Promise<void>;
  /** Adds a member that has no vote. */
  addLearner(): Promise<Member>;
  /** A door for the test to one member. */
  door(member: Member): EtcdDoor;
}

interface Running extends Member {
  server: EtcdServer | undefined;
  link: Link;
}

export async function startCluster(size = 3): Promise<Cluster> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir()).path;
  const binary = (await findEtcd(defaultSearch(), quiet)).etcd;
  const links = Array.from({ length: size + 1 }, () => stack.use(new Link()));
  const peers = (count: number) =>
    links.slice(0, count).map(({ port }, i) => `m${i}=http://127.0.0.1:${port}`);
  const servers = stack.use(new AsyncDisposableStack());
  const members: Running[] = [];
  const startMember = async (i: number, state: "new" | "existing", count: number) => {
    const run = startEtcd({
      binary,
      dir: join(dir, `m${i}`),
      args: memberArgs(i, links[i], state, peers(count)),
    });
    const server = await run;
    const member = asMember(`m${i}`, server, links[i]);
    servers.defer(() => member.stop());
    return member;
  };
  members.push(...await Promise.all(links.slice(0, size).map((_, i) => startMember(i, "new", size))));
  const doors = stack.use(new AsyncDisposableStack());
  const all = stack.move();
  const status = (member: Member) => ask(member, "maintenance/status", {});
  const byRole = (wanted: boolean) =>
    eventually(async () => {
      for (const member of members.filter(({ server }) => server)) {
        const { header, leader } = await status(member);
        if ((header.member_id === leader) === wanted && leader !== "0") return member;
      }
    });
  return {
    members,
    leader: () => byRole(true),
    follower: () => byRole(false),
    async promote(member) {
      const target = (await status(member)).header.member_id;
      await ask(await byRole(true), "maintenance/transfer-leadership", { targetID: target });
    },
    async partition(member) {
      const id = await member.id();
      links.forEach((link) => link.cut((from) => from === id || link === (member as Running).link));
      await eventually(async () => [undefined, "0"].includes((await status(member)).leader));
    },
    async addLearner() {
      const peerURLs = [`http://127.0.0.1:${links[size].port}`];
      await ask(members[0], "cluster/member/add", { peerURLs, isLearner: true });
      return await startMember(size, "existing", size + 1);
    },
    door: ({ port }) => doors.use(new EtcdDoor(`etcd://127.0.0.1:${port}/`)),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

function memberArgs(i: number, link: Link, state: string, peers: string[]): string[] {
  const flags = {
    name: `m${i}`,
    "listen-peer-urls": `http://127.0.0.1:${link.target}`,
    "initial-advertise-peer-urls": `http://127.0.0.1:${link.port}`,
    "initial-cluster": peers.join(","),
    "initial-cluster-state": state,
  };
  const loose = "--strict-reconfig-check=false"; // a young cluster takes a new member too
  return [...fastEtcd, loose, ...Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value])];
}

function asMember(name: string, server: EtcdServer, link: Link): Running {
  const { port, pid } = server;
  return {
    name,
    port,
    link,
    server,
    async id() {
      return BigInt((await ask({ port }, "maintenance/status", {})).header.member_id).toString(16);
    },
    freeze: () => Deno.kill(pid, "SIGSTOP"),
    wake: () => Deno.kill(pid, "SIGCONT"),
    async stop() {
      const running = this.server;
      this.server = undefined;
      await running?.stop("SIGKILL");
    },
  };
}

/** One call by etcd's gateway for JSON. */
// deno-lint-ignore no-explicit-any
async function ask({ port }: { port: number }, path: string, body: object): Promise<any> {
  const response = await fetch(`http://127.0.0.1:${port}/v3/${path}`, {
    method: "POST",
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${path}: ${JSON.stringify(answer)}`);
  return answer;
}

/** The way to one member: its peers say who they are (`X-Server-From`) when they connect. */
class Link implements AsyncDisposable {
  readonly target = freePort();
  readonly port: number;
  readonly #listener: Deno.TcpListener;
  readonly #open = new Map<Deno.Conn, string>();
  #isCut: (from: string) => boolean = () => false;

  constructor() {
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.port = this.#listener.addr.port;
    this.#accept();
  }

  cut(isCut: (from: string) => boolean): void {
    this.#isCut = isCut;
    for (const [connection, from] of this.#open) if (isCut(from)) close(connection);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await Promise.resolve();
    this.#open.forEach((_, connection) => close(connection));
  }

  async #accept(): Promise<void> {
    for await (const peer of this.#listener) this.#serve(peer).catch(() => {}).finally(() => close(peer));
  }

  async #serve(peer: Deno.Conn): Promise<void> {
    this.#open.set(peer, "");
    const first = new Uint8Array(65_536);
    const length = await peer.read(first) ?? 0;
    const head = new TextDecoder().decode(first.subarray(0, length));
    const from = /^x-server-from: *([0-9a-f]+)/im.exec(head)?.[1] ?? "";
    if (this.#isCut(from)) return;
    const member = await Deno.connect({ hostname: "127.0.0.1", port: this.target });
    this.#open.set(peer, from).set(member, from);
    try {
      for (let sent = 0; sent < length;) sent += await member.write(first.subarray(sent, length));
      await Promise.race([
        peer.readable.pipeTo(member.writable, { preventCancel: true, preventClose: true }),
        member.readable.pipeTo(peer.writable, { preventCancel: true, preventClose: true }),
      ]);
    } finally {
      this.#open.delete(peer);
      this.#open.delete(member);
      close(member);
    }
  }
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // it is closed
  }
}
