//! Replies in the version of the protocol that a client has asked for.

use standpipe_wire::resp::reply as resp;
pub(super) use standpipe_wire::resp::reply::Version;

/// Where a reply goes, and in which version.
pub(super) struct Reply<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) version: Version,
}

impl Reply<'_> {
    pub(super) fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    pub(super) fn simple(&mut self, text: &str) {
        resp::simple(text, self.out);
    }

    /// An error: its code, then a sentence.
    pub(super) fn error(&mut self, text: &str) {
        resp::error(text, self.out);
    }

    pub(super) fn integer(&mut self, number: i64) {
        resp::integer(number, self.out);
    }

    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        resp::bulk(bytes, self.out);
    }

    pub(super) fn null(&mut self) {
        resp::null(self.version, self.out);
    }

    pub(super) fn null_array(&mut self) {
        resp::null_array(self.version, self.out);
    }

    pub(super) fn array(&mut self, len: usize) {
        resp::array_head(len, self.out);
    }

    /// `len` names and values follow in turn.
    pub(super) fn map(&mut self, len: usize) {
        resp::map_head(len, self.version, self.out);
    }

    /// `len` names and values follow in turn, also in RESP3 as a plain array.
    pub(super) fn flat_map(&mut self, len: usize) {
        resp::array_head(len * 2, self.out);
    }

    /// News that answer no command.
    pub(super) fn push(&mut self, len: usize) {
        resp::push_head(len, self.version, self.out);
    }
}
