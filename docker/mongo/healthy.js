// Healthy is a mongod that can be written to. The first time, it makes itself a replica set of one member.
const password = require("fs").readFileSync("/run/secrets/mongo_root_password", "utf8").trim();
const admin = new Mongo("mongodb://127.0.0.1:27017/?directConnection=true").getDB("admin");
admin.auth("root", password);
if (!admin.hello().setName) {
  admin.adminCommand({ replSetInitiate: { _id: "rs0", members: [{ _id: 0, host: "mongo:27017" }] } });
}
quit(admin.hello().isWritablePrimary ? 0 : 1);
