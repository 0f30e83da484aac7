/**
 * Prints the bill of materials of the program, CycloneDX 1.6: Deno's runtime, and each package that main.ts needs with its
 * version, licence and the hash of deno.lock. `deno task sbom [VERSION OF THE RUNTIME]`
 */
import { Spec, Validation } from "@cyclonedx/cyclonedx-library";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import manifest from "../../deno.json" with { type: "json" };

interface Package {
  name: string;
  version: string;
  /** By their ids. */
  dependencies: string[];
  registryUrl: string;
}
interface Info {
  modules: { npmPackage?: string }[];
  npmPackages: Record<string, Package>;
}

const root = fileURLToPath(new URL("../..", import.meta.url));
const { npm: locked } = JSON.parse(await Deno.readTextFile(join(root, "deno.lock")));
const purl = ({ name, version }: Package) => `pkg:npm/${name.replace("@", "%40")}@${version}`;

async function info<T>(...args: string[]): Promise<T> {
  const command = new Deno.Command(Deno.execPath(), { args: ["info", "--json", ...args], cwd: root });
  const { success, stdout } = await command.output();
  if (!success) {
    throw new Error(`Cannot read what the program imports: 'deno info ${args.join(" ")}' has failed`);
  }
  return JSON.parse(new TextDecoder().decode(stdout));
}

/** What the program imports, and what that needs. */
function needed({ modules, npmPackages }: Info): [id: string, one: Package][] {
  const ids = new Set(modules.flatMap(({ npmPackage }) => npmPackage ?? []));
  for (const id of ids) npmPackages[id].dependencies.forEach((dependency) => ids.add(dependency)); // a set grows meanwhile
  return [...ids].sort().map((id) => [id, npmPackages[id]]);
}

async function component(id: string, one: Package, npmCache: string) {
  const { name, version, registryUrl } = one;
  const folder = join(npmCache, new URL(registryUrl).host, name, version);
  const { license } = JSON.parse(await Deno.readTextFile(join(folder, "package.json")));
  const { integrity }: { integrity: string } = locked[id];
  return {
    type: "library",
    "bom-ref": purl(one),
    name,
    version,
    purl: purl(one),
    ...(license && { licenses: [{ expression: license }] }),
    hashes: [{
      alg: "SHA-512",
      content: Buffer.from(integrity.replace("sha512-", ""), "base64").toString("hex"),
    }],
  };
}

async function bom(runtime: string) {
  const [program, { npmCache }] = await Promise.all([info<Info>("main.ts"), info<{ npmCache: string }>()]);
  const packages = needed(program);
  const imported = new Set(program.modules.flatMap(({ npmPackage }) => npmPackage ?? []));
  const deno = {
    type: "platform",
    "bom-ref": `pkg:github/denoland/deno@v${runtime}`,
    name: "deno",
    version: runtime,
    purl: `pkg:github/denoland/deno@v${runtime}`,
    licenses: [{ expression: "MIT" }],
  };
  const self = `pkg:generic/${manifest.name}@${manifest.version}`;
  const refs = (ids: string[]) => ids.map((id) => purl(program.npmPackages[id]));
  return {
    $schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    version: 1,
    metadata: {
      component: {
        type: "application",
        "bom-ref": self,
        name: manifest.name,
        version: manifest.version,
        licenses: [{ expression: manifest.license }],
      },
    },
    components: [deno, ...await Promise.all(packages.map(([id, one]) => component(id, one, npmCache)))],
    dependencies: [
      { ref: self, dependsOn: [deno["bom-ref"], ...refs([...imported].sort())] },
      ...packages.map(([, one]) => ({ ref: purl(one), dependsOn: refs(one.dependencies) })),
    ],
  };
}

const text = JSON.stringify(await bom(Deno.args[0] ?? Deno.version.deno), null, 2);
const wrong = await new Validation.JsonStrictValidator(Spec.Version.v1dot6).validate(text);
if (wrong !== null) throw new Error(`Cannot make a bill of materials: ${JSON.stringify(wrong)}`);
console.log(text);
