//! What the log and the store hold: damaged bytes are noticed, whole ones come back the same.

use standpipe_engine::Record;
use standpipe_tree::{Change, Format, Path};

/// A change, as a record holds it.
pub fn change(data: &[u8]) {
    let Some((change, used)) = Change::decode(data) else { return };
    assert!((1..=data.len()).contains(&used));
    let mut bytes = Vec::new();
    change.encode(&mut bytes);
    assert_eq!(Change::decode(&bytes), Some((change.clone(), bytes.len())));
    for at in ["", "a", "a/b", "1"] {
        let at = Path::parse(at).expect("a path");
        let told = change.event(&at, Format::Export);
        assert!(told.is_none() || change.touches(&at), "only who is touched is told");
    }
}

/// A record, whose checksum is made right so that what is behind it is tried too.
pub fn record(data: &[u8]) {
    let _refused = Record::decode(data);
    let checksum = crc32fast::hash(data).to_le_bytes();
    let Some(record) = Record::decode(&[data, &checksum].concat()) else { return };
    assert_eq!(Record::decode(record.encode().as_bytes()).as_ref(), Some(&record));
}
