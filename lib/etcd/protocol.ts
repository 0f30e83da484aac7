/** The methods of etcd's services, from the protocol file that npm etcd3 brings. */
import type * as grpc from "@grpc/grpc-js";
import { Etcd3 } from "etcd3";

export type Method = grpc.MethodDefinition<unknown, unknown>;

interface Host {
  getServiceClient(service: string): grpc.Client & { constructor: { service: Record<string, Method> } };
}

const SERVICES = ["KV", "Watch", "Maintenance", "Auth"] as const;
export type Service = (typeof SERVICES)[number];

/** Nothing is connected for it: etcd3 makes its clients as it is asked for them. */
function readMethods(): Record<string, Record<string, Method>> {
  const etcd = new Etcd3({ hosts: "127.0.0.1:2379" });
  const [host] = (etcd as unknown as { pool: { hosts: Host[] } }).pool.hosts;
  const methods = SERVICES.map((name) => [name, host.getServiceClient(name).constructor.service]);
  etcd.close();
  return Object.fromEntries(methods);
}

const METHODS = readMethods();

export function method(service: Service, name: string): Method {
  return METHODS[service][name];
}
