//! Whether a stopped pipeline can resume: whether MongoDB still has the position to resume from, and for how
//! long.

use super::report::{FindingPart, PartFindings};
use crate::{
    config::{Config, OnHistoryLost},
    error::Code,
    sink::Target,
    status::{OplogStatus, StatusGatherer, span},
};

/// Less time than this deserves a note.
const SHORT: u64 = 3600;

/// There is no finding if nothing is stored, or the oplog may not be read; nor for servers that do not
/// answer, because another finding reports that.
pub(super) async fn check(config: &Config) -> PartFindings {
    let mut findings = PartFindings::new(FindingPart::Source);
    let Ok(target) = Target::parse(config.target.expose(), &config.schema, &config.name) else {
        return findings;
    };
    let mut gatherer = StatusGatherer::from_outside(target.unattended(), Some(config.source.clone()));
    let Ok(status) = gatherer.gather().await else { return findings };
    let Some(oplog) = status.source.oplog.filter(|_| !status.collections.is_empty()) else { return findings };
    judge(&mut findings, &oplog, config.on_history_lost);
    findings
}

fn judge(findings: &mut PartFindings, oplog: &OplogStatus, on_history_lost: OnHistoryLost) {
    let subject = "history";
    let OplogStatus { start, headroom_seconds, is_history_lost, .. } = oplog;
    if *is_history_lost {
        let what = format!("lost: the oplog begins at {start}, after the position to resume from");
        match on_history_lost {
            OnHistoryLost::Stop => {
                findings.problem(subject, format!("{what}: a run ends with {}", Code::HistoryLost))
            }
            OnHistoryLost::Resync => {
                findings.note(subject, format!("{what}: a run resyncs the affected collections"))
            }
        }
        .advise(Code::HistoryLost.remedy());
    } else if let Some(left) = *headroom_seconds {
        let what = format!("the oplog holds the position to resume from, for about {} more", span(left));
        if left < SHORT {
            findings.note(subject, what).advise("start docrow soon, and enlarge the oplog");
        } else {
            findings.ok(subject, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Finding, Severity};

    fn judged(headroom: Option<u64>, is_lost: bool, on_history_lost: OnHistoryLost) -> Vec<Finding> {
        let mut findings = PartFindings::new(FindingPart::Source);
        let oplog = OplogStatus {
            start: std::time::SystemTime::now().into(),
            window_seconds: 86_400,
            headroom_seconds: headroom,
            is_history_lost: is_lost,
        };
        judge(&mut findings, &oplog, on_history_lost);
        findings.0
    }

    #[test]
    fn lost_history_is_a_problem_unless_it_is_to_be_copied_anew() {
        for (on_history_lost, severity) in
            [(OnHistoryLost::Stop, Severity::Problem), (OnHistoryLost::Resync, Severity::Note)]
        {
            let found = judged(Some(0), true, on_history_lost);
            assert_eq!((found.len(), found[0].severity), (1, severity));
            assert!(found[0].what.starts_with("lost: ") && found[0].advice.is_some(), "{found:?}");
        }
    }

    #[test]
    fn the_time_that_is_left_is_said() {
        let said = |left| judged(Some(left), false, OnHistoryLost::Stop);
        assert_eq!(said(7200)[0].severity, Severity::Ok);
        assert!(said(7200)[0].what.ends_with("for about 2 h 0 min more"), "{:?}", said(7200));
        assert_eq!(said(600)[0].severity, Severity::Note);
        assert!(judged(None, false, OnHistoryLost::Stop).is_empty());
    }
}
