// Run once, when the data directory is made: docrow's user, with the rights that docrow needs (docs/roles.md) and no others.
db.getSiblingDB("admin").createRole({
  role: "docrow",
  privileges: [
    { resource: { db: "shop", collection: "" }, actions: ["changeStream", "collStats", "find", "listCollections"] },
    { resource: { db: "shop", collection: "" }, actions: ["splitVector"] },
    { resource: { db: "local", collection: "oplog.rs" }, actions: ["collStats", "find"] }
  ],
  roles: []
})
db.getSiblingDB("admin").createUser({
  user: "docrow",
  pwd: require("fs").readFileSync("/run/secrets/mongo_password", "utf8").trim(),
  roles: ["docrow"]
})
