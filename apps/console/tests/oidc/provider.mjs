// SPDX-License-Identifier: Apache-2.0
// A real provider of OpenID Connect for tests: node provider.mjs PORT CERTIFICATE KEY REDIRECT SECRET MODULES
// Whoever asks is logged in as the user that the query parameter login_hint names, and agrees to everything.
import { createServer } from "node:https";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [port, certificate, key, redirect, secret, modules] = process.argv.slice(2);
const path = createRequire(`${modules}/`).resolve("oidc-provider");
const { Provider } = await import(pathToFileURL(path));
const issuer = `https://localhost:${port}`;
const groups = { kim: ["traffic-operators"], park: ["staff"], lee: ["else"] };

const provider = new Provider(issuer, {
  clients: [{ client_id: "console", client_secret: secret, redirect_uris: [redirect] }],
  pkce: { required: () => true },
  conformIdTokenClaims: false,
  claims: { openid: ["sub"], profile: ["preferred_username", "groups"] },
  findAccount: (context, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id, groups: groups[id] ?? [] }),
  }),
  features: { devInteractions: { enabled: false } },
  interactions: { url: (context, interaction) => `/interaction/${interaction.uid}` },
  loadExistingGrant: async (context) => {
    const grant = new provider.Grant({
      clientId: context.oidc.client.clientId,
      accountId: context.oidc.session.accountId,
    });
    grant.addOIDCScope("openid profile");
    await grant.save();
    return grant;
  },
});
const handle = provider.callback();

createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, async (request, response) => {
  if (!request.url.startsWith("/interaction/")) return handle(request, response);
  try {
    const { params } = await provider.interactionDetails(request, response);
    await provider.interactionFinished(request, response, { login: { accountId: params.login_hint } });
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
}).listen(Number(port), "127.0.0.1", () => console.log(`listens at ${issuer}`));
