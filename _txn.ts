import { EtcdClient } from "./lib/etcd/client.ts";
import { sendTxn } from "./lib/etcd/kv.ts";
const etcd = new EtcdClient({ endpoints: ["127.0.0.1:52379"] } as never);
const enc = new TextEncoder();
for (const per of [1, 127]) {
  const times: number[] = [];
  for (let k = 0; k < 300; k++) {
    const t = performance.now();
    await sendTxn(etcd, { compares: [], writes: Array.from({ length: per }, (_, i) => ({ key: enc.encode(`/mb/${i}`), value: enc.encode("v".repeat(128)), keepLease: false })) });
    times.push(performance.now() - t);
  }
  times.sort((a, b) => a - b);
  console.log(per, [.1,.25,.5,.75,.9,.95,.99].map((p) => times[Math.floor(300*p)].toFixed(2)).join(" "));
}
etcd.close();
