//! 4xxx to 9xxx: the history, the one writer, stored state, docrow itself.

macro_rules! docrow {
    ($next:ident $($rest:ident)* { $($entries:tt)* }) => { $next! { $($rest)* { $($entries)*
        // 4xxx: history.
        4000 HistoryLost(HistoryLost) "History is lost: the oplog no longer holds the position to resume from."
            "docrow was stopped, or delayed, for longer than the oplog reaches back; the changes since then can't be read any more. PostgreSQL has the state of that position."
            "Run `docrow resync '*'`, then start docrow again: it copies everything again in place, and readers never see an empty table. `[source] on_history_lost = \"resync\"` does so automatically. Then enlarge the oplog (`replSetResizeOplog`)."
        4001 HistoryUnknown(HistoryLost) "History is lost: MongoDB does not know the position to resume from."
            "The position belongs to another deployment, or to the time before this one was restored."
            "Check that the source URI leads to the same deployment. If it was restored or is new: run `docrow resync '*'`, then start docrow again: it copies everything again in place. `[source] on_history_lost = \"resync\"` does so automatically."

        4010 CollectionHistoryLost(HistoryLost) "The history of a collection is lost; others continue."
            "It was stopped, not included or delayed for longer than the oplog reaches back, and others were not. Its tables have the state of its position."
            "Fix what stopped it, then run `docrow resync 'DATABASE.COLLECTION'`: docrow copies it again in place. `[source] on_history_lost = \"resync\"` does so automatically when docrow starts."

        // 5xxx: one writer.
        5000 Fenced(Fenced) "Another process holds the pipeline."
            "Only one process at a time may write for a pipeline."
            "Stop the other process. For a second replica, give this pipeline another `name` and another `[target] schema`: two pipelines can't share tables."
        5001 PipelineHeld(Fenced) "Another docrow runs this pipeline."
            "The message names the process, and where it is connected from."
            "Stop it, or run `docrow run --standby` to stand by. For a second replica, give this pipeline another `name` and another `[target] schema`: two pipelines can't share tables."
        5002 PipelineTaken(Fenced) "Another docrow has taken over the pipeline."
            "This process was silent for too long, for example because its machine or network froze. It has written nothing since."
            "Do nothing if a standby took over. Otherwise find out who started the other one."
        5003 StateInUse(Fenced) "The state directory is in use by another docrow."
            "A state directory serves one process."
            "Stop the other process, or give this one its own directory with `--state`."

        // 6xxx: the state directory, and stored state.
        6000 StateRebuilt(StateRebuilt) "The state directory was corrupt, and was rebuilt."
            "It is expendable: PostgreSQL knows what is applied, and docrow reads the rest from the oplog again."
            "Do nothing. If it happens again, check the disk."
        6001 StateFull(StateFull) "No space is left for the state directory."
            "Until there is, docrow does not read the stream, which waits in the oplog."
            "Free space on its disk before the oplog rolls over."
        6002 StateCorrupt(StateCorrupt) "The state directory can't be used, and can't be rebuilt."
            "It is corrupt, and docrow can't set the corrupt files aside."
            "Stop docrow, remove or move the directory, and start again: it is expendable."
        6003 StateUnwritable(Usage) "The state directory can't be written."
            "The path does not exist, or docrow's user may not write there."
            "Make it writable for docrow's user, or name another one with `--state` or `[state] dir`."
        6004 StateOfAnother(Usage) "The state directory belongs to another pipeline."
            "A directory serves one pipeline, whose name is stored in it."
            "Name another one with `--state` or `[state] dir`, or correct `name`."
        6005 SpoolFull(StateFull) "The spool is full, or almost."
            "While a snapshot runs, or PostgreSQL is away or slow, changes wait in the spool, up to `[state] max_spool`. Beyond that they wait in the oplog, which keeps them only for its window."
            "Find out why PostgreSQL does not keep up; raise `max_spool` if the disk has room; enlarge the oplog."
        6006 SpoolLost(StateRebuilt) "The spooled changes are lost."
            "The spool was rebuilt. docrow reads the changes again from PostgreSQL's position."
            "Do nothing. If it happens again, check the disk."
        6007 StateRefused(StateCorrupt) "The system denies access to the state directory."
            "It became read-only or unreadable, or the process has run out of file descriptors or memory."
            "See the system's message: fix mode, mount or limits (`ulimit -n`), and start docrow again."
        6008 StoredUnreadable(StateCorrupt) "What docrow has stored can't be read."
            "A row of the schema docrow, or an entry of the state directory, is not in docrow's format: it was changed by hand, or by a later version."
            "Undo the change or the downgrade; if it is in the state directory, remove the directory; otherwise restore the schema docrow from a backup."
        6020 PausedGivenUp(StateFull) "The spooled changes of a paused collection were discarded."
            "The spool is full, and the changes of a paused collection are never applied. So that the others can continue, docrow discards them and stops the collection; its position stays."
            "Run `docrow resume 'DATABASE.COLLECTION'` soon: it resumes from the oplog, if that still reaches back to its position; otherwise it needs `docrow resync`. For longer pauses raise `[state] max_spool`."

        // 9xxx: docrow itself.
        9000 Bug(Bug) "docrow has a bug."
            "One of its invariants does not hold. Nothing wrong was committed: what was unfinished was rolled back."
            "Start it again, and report the bug with the log."
        9001 Output(Bug) "Output can't be written."
            "Standard output fails: a disk is full, or a device is gone."
            "Check where the output goes."
        9002 Stalled(Stalled) "The pipeline has stalled."
            "Nothing was applied for `[stream] stall_after`, although MongoDB has changes, PostgreSQL answers, and no other session's lock is in the way. The message says where each part of docrow is waiting."
            "If it happens once, do nothing. If it happens again, report it with the message; if a part is waiting for MongoDB, check MongoDB first."
        9003 StopOverdue(Stalled) "docrow was asked to stop, and did not finish in time."
            "It ends 25 seconds after the first SIGTERM or SIGINT in any case; the message says what it was waiting for. Uncommitted work is done again."
            "Start it again. If a server did not answer, check the server; if it happens again, report it with the message."
    }}};
}
pub(in crate::error) use docrow;
