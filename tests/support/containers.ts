/**
 * The tests' servers in containers, by testcontainers.
 *
 * TESTCONTAINERS_RYUK_DISABLED is left as it stands: unset, testcontainers' own reaper removes the containers of a
 * run that was killed; `true` is for engines that cannot pull the reaper's image.
 */

import type { Servers } from "./servers.ts";

const postgresImage = Deno.env.get("ETCD_PG_SYNC_TEST_POSTGRES_IMAGE") || "postgres:18";
const etcdImage = Deno.env.get("ETCD_PG_SYNC_TEST_ETCD_IMAGE") || "quay.io/coreos/etcd:v3.7.3";

/** Whether a container engine answers at the place that DOCKER_HOST or custom names. */
export async function dockerAnswers(): Promise<boolean> {
  const host = Deno.env.get("DOCKER_HOST");
  if (host && !host.startsWith("unix://")) return true;
  const runtime = Deno.env.get("XDG_RUNTIME_DIR");
  const sockets = host
    ? [host.slice("unix://".length)]
    : ["/var/run/docker.sock", ...(runtime ? [`${runtime}/docker.sock`] : [])];
  for (const path of sockets) if (await answers(path)) return true;
  return false;
}

async function answers(path: string): Promise<boolean> {
  try {
    using socket = await Deno.connect({ transport: "unix", path });
    await socket.write(new TextEncoder().encode("GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"));
    const answer = new Uint8Array(64);
    const length = await socket.read(answer) ?? 0;
    return new TextDecoder().decode(answer.subarray(0, length)).includes(" 200 ");
  } catch {
    return false;
  }
}

/** Both, or none. */
export async function startContainers(): Promise<Servers> {
  await using stack = new AsyncDisposableStack();
  const [postgres, etcd] = await Promise.allSettled([startPostgres(), startEtcd()]);
  for (const started of [postgres, etcd]) {
    if (started.status === "fulfilled") stack.defer(async () => void await started.value.container.stop());
  }
  if (postgres.status === "rejected") throw postgres.reason;
  if (etcd.status === "rejected") throw etcd.reason;
  const all = stack.move();
  return {
    way: "containers",
    postgresDsn: postgres.value.dsn,
    etcdDsn: etcd.value.dsn,
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

async function startPostgres() {
  const { GenericContainer, Wait } = await import("testcontainers");
  const password = crypto.randomUUID();
  const settings = ["fsync=off", "full_page_writes=off", "max_connections=200"];
  const container = await new GenericContainer(postgresImage)
    .withEnvironment({ POSTGRES_PASSWORD: password })
    .withCommand(["postgres", ...settings.flatMap((setting) => ["-c", setting])])
    .withExposedPorts(5432)
    // Once for the server that the image's script starts to set the password, once for the real one
    .withWaitStrategy(Wait.forLogMessage(/database system is ready to accept connections/, 2))
    .start();
  const address = `${container.getHost()}:${container.getMappedPort(5432)}`;
  return { container, dsn: `postgres://postgres:${password}@${address}/postgres` };
}

async function startEtcd() {
  const { GenericContainer, Wait } = await import("testcontainers");
  const container = await new GenericContainer(etcdImage)
    .withCommand([
      "/usr/local/bin/etcd",
      "--listen-client-urls=http://0.0.0.0:2379",
      "--advertise-client-urls=http://127.0.0.1:2379",
      "--unsafe-no-fsync",
    ])
    .withExposedPorts(2379)
    // By HTTP: the image has no shell that could look at its ports from within
    .withWaitStrategy(Wait.forHttp("/health", 2379))
    .start();
  return { container, dsn: `etcd://${container.getHost()}:${container.getMappedPort(2379)}/` };
}
