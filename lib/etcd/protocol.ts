/** The methods of etcd's services, from the protocol file that npm etcd3 brings. */
import type * as grpc from "@grpc/grpc-js";

export type Method = grpc.MethodDefinition<unknown, unknown>;

interface Host {
  getServiceClient(service: string): grpc.Client & { constructor: { service: Record<string, Method> } };
}

const SERVICES = ["KV", "Watch", "Maintenance", "Auth", "Cluster"] as const;
export type Service = (typeof SERVICES)[number];

/**
 * Nothing is connected for it: etcd3 makes its clients as it is asked for them. Loaded when it is first needed, for it
 * takes as long as all else that `status` does.
 */
async function readMethods(): Promise<Record<string, Record<string, Method>>> {
  const { Etcd3 } = await import("etcd3");
  const etcd = new Etcd3({ hosts: "127.0.0.1:2379" });
  const [host] = (etcd as unknown as { pool: { hosts: Host[] } }).pool.hosts;
  const methods = SERVICES.map((name) => [name, host.getServiceClient(name).constructor.service]);
  etcd.close();
  return Object.fromEntries(methods);
}

let methods: ReturnType<typeof readMethods> | undefined;

export async function method(service: Service, name: string): Promise<Method> {
  methods ??= readMethods();
  return (await methods)[service][name];
}

export function methodPath(service: Service, name: string): string {
  return `/etcdserverpb.${service}/${name}`;
}
