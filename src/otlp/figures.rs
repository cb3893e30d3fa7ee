//! The metrics in OTLP's form, derived from the text that `/metrics` shows, so that the two can't differ.
//! Pure.
//!
//! Names, units and help come from the table. The value of an unknown gauge is NaN here, too.

use std::collections::HashMap;

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
        metric::Data, number_data_point::Value,
    },
};

use crate::{
    metrics::{ALL, MetricAbout, MetricKind, MetricUnit},
    trace::{attribute, text},
};

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// The samples of a series name: what is in braces, and the value.
type SeriesSamples<'a> = HashMap<&'a str, Vec<(&'a str, &'a str)>>;

/// All metrics in `shown`, counted since `began`.
pub(super) fn metrics(shown: &str, began: u64, now: u64) -> Vec<Metric> {
    let mut samples = SeriesSamples::new();
    for line in shown.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        samples.entry(name).or_default().push((labels, value));
    }
    let moment = CommonPoint { began, now };
    ALL.iter().filter_map(|metric| moment.metric(metric.about(), &samples)).collect()
}

/// The common parts of all metrics.
#[derive(Clone, Copy)]
struct CommonPoint {
    began: u64,
    now: u64,
}

impl CommonPoint {
    /// `None`: it has no series.
    fn metric(self, about: &MetricAbout, samples: &SeriesSamples<'_>) -> Option<Metric> {
        let data = match about.kind {
            MetricKind::Counter => Data::Sum(Sum {
                data_points: self.numbers(samples.get(about.name)?, |n| n.parse().map(Value::AsInt).ok()),
                aggregation_temporality: CUMULATIVE,
                is_monotonic: true,
            }),
            MetricKind::Gauge => Data::Gauge(Gauge {
                data_points: self.numbers(samples.get(about.name)?, |n| n.parse().map(Value::AsDouble).ok()),
            }),
            MetricKind::Histogram => Data::Histogram(Histogram {
                data_points: vec![self.histogram(about.name, samples)?],
                aggregation_temporality: CUMULATIVE,
            }),
        };
        let unit = match about.unit {
            MetricUnit::Count => "",
            MetricUnit::Seconds | MetricUnit::UnixSeconds => "s",
            MetricUnit::Bytes => "By",
        };
        Some(Metric {
            name: about.name.to_owned(),
            description: about.help.to_owned(),
            unit: unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }

    fn numbers(
        self,
        samples: &[(&str, &str)],
        value: impl Fn(&str) -> Option<Value>,
    ) -> Vec<NumberDataPoint> {
        let point = |(named, number): &(&str, &str)| NumberDataPoint {
            attributes: labels(named),
            start_time_unix_nano: self.began,
            time_unix_nano: self.now,
            value: value(number),
            ..NumberDataPoint::default()
        };
        samples.iter().map(point).collect()
    }

    /// The only series of a histogram. Prometheus's buckets are cumulative; those of OTLP are not.
    fn histogram(self, name: &str, samples: &SeriesSamples<'_>) -> Option<HistogramDataPoint> {
        let one = |what: &str| Some(samples.get(&*format!("{name}_{what}"))?.first()?.1);
        let (mut bounds, mut counts, mut below) = (Vec::new(), Vec::new(), 0);
        for (limit, count) in samples.get(&*format!("{name}_bucket"))? {
            let count: u64 = count.parse().ok()?;
            counts.push(count.saturating_sub(below));
            below = count;
            let limit: f64 = limit.split('"').nth(1)?.parse().ok()?;
            bounds.extend(limit.is_finite().then_some(limit));
        }
        Some(HistogramDataPoint {
            start_time_unix_nano: self.began,
            time_unix_nano: self.now,
            count: one("count")?.parse().ok()?,
            sum: one("sum")?.parse().ok(),
            bucket_counts: counts,
            explicit_bounds: bounds,
            ..HistogramDataPoint::default()
        })
    }
}

/// `a="x",b="y\"z"}`
fn labels(mut rest: &str) -> Vec<KeyValue> {
    let mut labels = Vec::new();
    while let Some((name, after)) = rest.split_once("=\"") {
        let (value, after) = quoted(after);
        labels.push(attribute(name.trim_start_matches(','), text(&value)));
        rest = after;
    }
    labels
}

/// The text before the closing quote, without the escaping backslashes, and the rest.
fn quoted(rest: &str) -> (String, &str) {
    let (mut value, mut chars) = (String::new(), rest.chars());
    loop {
        match chars.next() {
            None | Some('"') => return (value, chars.as_str()),
            Some('\\') => value.extend(chars.next().map(|c| if c == 'n' { '\n' } else { c })),
            Some(c) => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value;

    use super::*;

    fn find(metrics: &[Metric], name: &str) -> Metric {
        metrics.iter().find(|metric| metric.name == name).unwrap().clone()
    }

    #[test]
    fn names_units_and_values_are_those_of_the_table() {
        let shown = "# HELP docrow_lag_seconds How far.\n# TYPE docrow_lag_seconds gauge\n\
            docrow_lag_seconds{collection=\"a.b\"} NaN\ndocrow_lag_seconds{collection=\"a.\\\"c\\\\\\nd\"} 1.5\n\
            docrow_events_read_total 7\ndocrow_spool_bytes 3\n\
            docrow_collection_phase{collection=\"a.b\",phase=\"live\"} 1\n";
        let metrics = metrics(shown, 5, 9);
        assert_eq!(metrics.len(), 4);
        let lag = find(&metrics, "docrow_lag_seconds");
        let Some(Data::Gauge(gauge)) = &lag.data else { panic!("{lag:?}") };
        assert_eq!((lag.unit.as_str(), gauge.data_points.len()), ("s", 2));
        assert!(matches!(gauge.data_points[0].value, Some(Value::AsDouble(value)) if value.is_nan()));
        assert_eq!(gauge.data_points[1].value, Some(Value::AsDouble(1.5)));
        assert_eq!(gauge.data_points[1].attributes, [attribute("collection", text("a.\"c\\\nd"))]);
        let read = find(&metrics, "docrow_events_read_total");
        let Some(Data::Sum(sum)) = &read.data else { panic!("{read:?}") };
        let point = &sum.data_points[0];
        assert!(sum.is_monotonic && sum.aggregation_temporality == CUMULATIVE && read.unit.is_empty());
        assert_eq!((point.value, point.start_time_unix_nano), (Some(Value::AsInt(7)), 5));
        assert_eq!(find(&metrics, "docrow_spool_bytes").unit, "By");
        let Some(Data::Gauge(gauge)) = find(&metrics, "docrow_collection_phase").data else { panic!() };
        let phase = gauge.data_points[0].attributes[1].clone();
        assert_eq!(
            (phase.key.as_str(), phase.value.unwrap().value),
            ("phase", Some(any_value::Value::StringValue("live".into())))
        );
    }

    #[test]
    fn buckets_hold_what_the_smaller_ones_do_not() {
        let name = "docrow_batch_events";
        let shown = format!(
            "{name}_bucket{{le=\"1\"}} 2\n{name}_bucket{{le=\"2\"}} 5\n{name}_bucket{{le=\"+Inf\"}} 6\n\
             {name}_sum 44.5\n{name}_count 6\n"
        );
        let Some(Data::Histogram(histogram)) = find(&metrics(&shown, 0, 0), name).data else { panic!() };
        let HistogramDataPoint { count, sum, bucket_counts, explicit_bounds, .. } = &histogram.data_points[0];
        assert_eq!((*count, *sum), (6, Some(44.5)));
        assert_eq!((&**bucket_counts, &**explicit_bounds), (&[2, 3, 1][..], &[1.0, 2.0][..]));
    }

    /// A histogram with labels would have more than one series.
    #[test]
    fn no_histogram_has_labels() {
        let about = ALL.iter().map(|metric| metric.about());
        assert!(
            about.filter(|about| about.kind == MetricKind::Histogram).all(|about| about.labels.is_empty())
        );
    }
}
