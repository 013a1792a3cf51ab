// A social server in one process: Bluesky's Personal Data Server and the directory of its accounts' DIDs.
// Settings are the PDS's own environment (PDS_*); required here: PDS_PORT, PDS_DATA_DIRECTORY,
// PDS_DID_PLC_URL (http://localhost:<port>, the directory is served there).
// Both listen on the loopback address only: TLS and the outside are a reverse proxy's.
import path from 'node:path'
import { PDS } from '@atproto/pds'
import plcServer from '@did-plc/server'
import { Directory } from './directory.mjs'

function required(name) {
  const value = process.env[name]
  if (!value) {
    console.error(`sns: ${name} is not set; it belongs into the service's environment file`)
    process.exit(78) // EX_CONFIG: starting again would not help
  }
  return value
}

/** Both packages call `app.listen(port)`, which would mean every interface. */
function keepOnLoopback(app) {
  const listen = app.listen.bind(app)
  app.listen = (port) => listen(port, '127.0.0.1')
}

required('PDS_PORT')
const directory = plcServer.PlcServer.create({
  db: new Directory(path.join(required('PDS_DATA_DIRECTORY'), 'directory.sqlite')),
  port: Number(new URL(required('PDS_DID_PLC_URL')).port),
})
keepOnLoopback(directory.app)
await directory.start()

try {
  await PDS.run({
    onCreated: (pds) => keepOnLoopback(pds.app),
    onStarted: (pds) => console.error(`sns: ready on port ${pds.server.address().port}`),
  })
} finally {
  await directory.destroy()
}
