/** Sockets by TLS, against a server of Deno's own. */
import assert from "node:assert/strict";
import { concat } from "../../lib/core/codec.ts";
import type { Socket } from "../../lib/etcd/socket.ts";
import { openTls, type PemTexts } from "../../lib/etcd/tls.ts";
import { strict } from "../support/run.ts";
import { tempDir } from "../support/servers.ts";
import { makeAuthority } from "../support/tls.ts";

const never = new AbortController().signal;

interface Ends {
  client: Socket;
  server: Deno.TlsConn;
}

/** Both ends of a connection. */
async function withEnds(test: (ends: Ends) => Promise<void>, alpnProtocols = ["h2"]): Promise<void> {
  await using dir = await tempDir();
  const authority = await makeAuthority(dir.path);
  const { cert, key } = await authority.issue("server", "DNS:localhost");
  const read = (path: string) => Deno.readTextFileSync(path);
  using listener = Deno.listenTls({
    hostname: "127.0.0.1",
    port: 0,
    cert: read(cert),
    key: read(key),
    alpnProtocols,
  });
  const pems: PemTexts = { ca: read(authority.ca) };
  const where = { hostname: "localhost", address: "127.0.0.1", port: listener.addr.port };
  await using opened = new AsyncDisposableStack();
  const accepting = listener.accept();
  opened.defer(async () => (await accepting).close());
  const client = opened.adopt(await openTls(where, pems, never), (client) => client.close());
  await test({ client, server: await accepting });
}

async function writeAll(to: Pick<Socket, "write">, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await to.write(bytes.subarray(at));
}

/** Reads by pieces of these sizes, in turn. */
async function readAll(from: Pick<Socket, "read">, length: number, sizes: number[]): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (let got = 0, i = 0; got < length; i++) {
    const into = new Uint8Array(sizes[i % sizes.length]);
    const read = await from.read(into);
    assert.ok(read, "it ended early");
    parts.push(into.subarray(0, read));
    got += read;
  }
  return concat(parts);
}

function random(size: number): Uint8Array {
  const out = new Uint8Array(size);
  for (let at = 0; at < size; at += 65_536) crypto.getRandomValues(out.subarray(at, at + 65_536));
  return out;
}

Deno.test("TLS: what is written on one side is read on the other, both ways at once", strict, async () => {
  await withEnds(async ({ client, server }) => {
    const [there, back] = [random(5_000_000), random(7_000_000)];
    const [readThere, readBack] = await Promise.all([
      readAll(server, there.length, [100_000]),
      readAll(client, back.length, [1, 512 * 1024, 7, 16_384, 100_003]),
      writeAll(client, there),
      writeAll(server, back),
    ]);
    assert.ok(readThere.every((byte, i) => byte === there[i]) && readThere.length === there.length);
    assert.ok(readBack.every((byte, i) => byte === back[i]) && readBack.length === back.length);
  });
});

Deno.test("TLS: who reads slowly has every byte, and then the end", strict, async () => {
  await withEnds(async ({ client, server }) => {
    const sent = random(3_000_000);
    const writing = writeAll(server, sent).then(() => server.closeWrite());
    const got = await readAll(client, sent.length, [10_000]);
    await writing;
    assert.ok(got.every((byte, i) => byte === sent[i]));
    assert.equal(await client.read(new Uint8Array(10)), null);
    assert.equal(await client.read(new Uint8Array(10)), null, "and again");
  });
});

Deno.test("TLS: a socket that is closed ends a read that waits, and takes no writes", strict, async () => {
  await withEnds(async ({ client }) => {
    const reading = client.read(new Uint8Array(10));
    client.close();
    assert.equal(await reading, null);
    await assert.rejects(client.write(new Uint8Array(10)));
    client.close();
  });
});

Deno.test("TLS: a server that speaks no HTTP/2 is not spoken to", strict, async () => {
  for (const protocols of [["http/1.1"], []]) {
    await assert.rejects(
      withEnds(() => Promise.reject(new Error("it was taken")), protocols),
      /does not speak HTTP\/2|NoApplicationProtocol|no application protocol/i,
    );
  }
});
