/** An etcd that asks who one is. */
import { Etcd3 } from "etcd3";

/** Turns users on: `root` (`rootpw`) may do everything, `weak` (`weakpw`) nothing. */
export async function withUsers({ dsn }: { dsn: string }): Promise<void> {
  const root = new Etcd3({ hosts: dsn.replace("etcd:", "http:").replace(/\/$/, "") });
  const user = await root.user("root").create("rootpw");
  await user.addRole("root").catch(async () => { // some versions have the role
    await root.role("root").create();
    await user.addRole("root");
  });
  await root.user("weak").create("weakpw");
  await root.auth.authEnable();
  root.close();
}
