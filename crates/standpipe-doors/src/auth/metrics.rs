//! What Prometheus is told about credentials. No token, uid or key is ever in it.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Credentials;

impl Collector for Credentials {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let inner = &*self.0;
        let authority = inner.authority.load();
        let counts = &inner.counts;
        let mut tokens = encoder.encode_descriptor(
            "auth_credentials",
            "credentials judged, by what was said",
            None,
            MetricType::Counter,
        )?;
        for (said, counter) in [
            ("verified", &counts.verified),
            ("remembered", &counts.remembered),
            ("refused", &counts.refused),
            ("expired", &counts.expired),
        ] {
            let counter = ConstCounter::new(counter.load(Ordering::Relaxed));
            counter.encode(tokens.encode_family(&[("said", said)])?)?;
        }
        let mut remembered =
            encoder.encode_descriptor("auth_remembered_tokens", "verified tokens held", None, MetricType::Gauge)?;
        ConstGauge::new(inner.cache.len() as u64).encode(remembered.encode_family::<[(&str, &str); 0]>(&[])?)?;
        if authority.key_sets().next().is_none() {
            return Ok(());
        }
        let sets = || authority.key_sets().map(|set| (Cow::from(set.url().to_string()), set));
        let mut fetches = encoder.encode_descriptor(
            "auth_key_set_fetches",
            "fetches of key sets, by how they ended",
            None,
            MetricType::Counter,
        )?;
        for (url, set) in sets() {
            for (ended, counter) in [("fetched", &set.fetched), ("failed", &set.failed)] {
                let counter = ConstCounter::new(counter.load(Ordering::Relaxed));
                counter.encode(fetches.encode_family(&[("ended", ended), ("url", &*url)])?)?;
            }
        }
        let mut keys = encoder.encode_descriptor(
            "auth_key_set_keys",
            "keys of a set that tokens are checked with now",
            None,
            MetricType::Gauge,
        )?;
        for (url, set) in sets() {
            ConstGauge::new(set.state().0 as u64).encode(keys.encode_family(&[("url", &*url)])?)?;
        }
        let mut age = encoder.encode_descriptor(
            "auth_key_set_age_seconds",
            "age of the newest answer of a key set's provider",
            None,
            MetricType::Gauge,
        )?;
        for (url, set) in sets() {
            if let Some(since) = set.state().1 {
                ConstGauge::new(since.as_secs()).encode(age.encode_family(&[("url", &*url)])?)?;
            }
        }
        Ok(())
    }
}
