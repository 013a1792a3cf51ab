// The directory of DIDs (did:plc) that the server's accounts are registered in, kept in one SQLite file.
// Upstream's own stores are PostgreSQL and a volatile mock; this one needs no second service and
// survives a kill: an operation is on disk before its registration is answered.
import Database from 'better-sqlite3'
import * as plc from '@did-plc/lib'
import { CID } from 'multiformats/cid'

class Conflict extends Error {
  status = 409 // what the directory's error handler answers with
}

/** Operations in the order they were accepted; implements @did-plc/server's PlcDatabase. */
export class Directory {
  constructor(file) {
    this.db = new Database(file)
    this.db.pragma('journal_mode = WAL')
    this.db.pragma('synchronous = FULL')
    this.db.exec(`
      CREATE TABLE IF NOT EXISTS operation (
        seq INTEGER PRIMARY KEY,
        did TEXT NOT NULL,
        cid TEXT NOT NULL,
        body TEXT NOT NULL,
        nullified INTEGER NOT NULL DEFAULT 0,
        created_at TEXT NOT NULL,
        UNIQUE (did, cid)
      )`)
    this.ofDid = this.db.prepare('SELECT * FROM operation WHERE did = ? ORDER BY seq')
    this.since = this.db.prepare(
      'SELECT * FROM operation WHERE created_at > ? AND nullified = 0 ORDER BY seq LIMIT ?')
    this.insert = this.db.prepare(
      'INSERT INTO operation (did, cid, body, created_at) VALUES (?, ?, ?, ?)')
    this.nullify = this.db.prepare('UPDATE operation SET nullified = 1 WHERE did = ? AND cid = ?')
  }

  async close() {
    this.db.close()
  }

  async healthCheck() {
    this.db.prepare('SELECT 1').get()
  }

  async validateAndAddOp(did, proposed) {
    const known = await this.indexedOpsForDid(did)
    const { nullified } = await plc.assureValidNextOp(did, known, proposed) // throws if invalid
    const { cid } = await plc.getLastOpWithCid([proposed])
    // Checking signatures let other requests run: the head must still be the one checked against.
    this.db.transaction(() => {
      if (this.ofDid.all(did).filter((row) => !row.nullified).length !== known.length) {
        throw new Conflict('prev is not the most recent operation any more')
      }
      this.insert.run(did, cid.toString(), JSON.stringify(proposed), new Date().toISOString())
      for (const old of nullified) this.nullify.run(did, old.toString())
    }).immediate()
  }

  async indexedOpsForDid(did, includeNullified = false) {
    return this.ofDid.all(did)
      .filter((row) => includeNullified || !row.nullified)
      .map((row) => ({
        did,
        operation: JSON.parse(row.body),
        cid: CID.parse(row.cid),
        nullified: Boolean(row.nullified),
        createdAt: new Date(row.created_at),
      }))
  }

  async opsForDid(did) {
    const operations = (await this.indexedOpsForDid(did)).map((op) => op.operation)
    return operations.map((op) => (op.type === 'create' ? plc.normalizeOp(op) : op))
  }

  async lastOpForDid(did) {
    return (await this.indexedOpsForDid(did)).at(-1)?.operation ?? null
  }

  async exportOps(count, after) {
    return this.since.all(after?.toISOString() ?? '', count).map((row) => ({
      did: row.did,
      operation: JSON.parse(row.body),
      cid: row.cid,
      nullified: false,
      createdAt: row.created_at,
    }))
  }
}
