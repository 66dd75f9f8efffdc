//! The content of a file that is open for writing, from the open to what is to be stored when it is closed.
//! Storing it is `tree`'s matter.

use fuser::Errno;
use tokio::sync::OwnedSemaphorePermit;

use super::Result;
use super::text::FILE_BYTES_MAX;

/// Whether there is something to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No: the server has it, or refused it and the writer was told.
    Stored,
    /// Made or emptied by the open, and nothing was written since. Not stored when a descriptor is
    /// closed, for shells close one before they write through another, but at the end.
    Emptied,
    /// Written to.
    Changed,
    /// A write was refused: half of what was meant is not stored.
    Torn,
}

/// What the server must hold for the content to replace it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Whatever it is.
    Anything,
    /// What was read, by its ETag.
    Etag(String),
    /// Whatever it is, but what was added here goes behind that.
    Appended,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Draft {
    content: Vec<u8>,
    /// How much of the content the server has, for [`Base::Appended`].
    had: usize,
    pub(super) base: Base,
    pub(super) state: State,
    /// Writes go to the end, wherever the writer's position is.
    at_end: bool,
    permit: OwnedSemaphorePermit,
}

impl Draft {
    /// An empty file that replaces what is there.
    pub(super) fn empty(at_end: bool, permit: OwnedSemaphorePermit) -> Self {
        Self { content: Vec::new(), had: 0, base: Base::Anything, state: State::Emptied, at_end, permit }
    }

    /// A file that is opened with its content, which has this ETag.
    pub(super) fn of(content: Vec<u8>, etag: String, at_end: bool, permit: OwnedSemaphorePermit) -> Self {
        let base = if at_end { Base::Appended } else { Base::Etag(etag) };
        Self { had: content.len(), content, base, state: State::Stored, at_end, permit }
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    /// What was added since the server had it.
    pub(super) fn added(&self) -> &[u8] {
        self.content.get(self.had..).unwrap_or_default()
    }

    /// A write did not fit.
    pub(super) fn torn(&mut self) {
        self.state = State::Torn;
    }

    /// The file's end after a write of `len` bytes at `offset`.
    ///
    /// # Errors
    /// `EFBIG`: no file may be so large.
    pub(super) fn end_of(&self, offset: u64, len: usize) -> Result<usize> {
        let start = if self.at_end { self.content.len() as u64 } else { offset };
        let end = start.checked_add(len as u64).and_then(|end| usize::try_from(end).ok());
        end.filter(|end| *end <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)
    }

    /// Bytes of content there is no room for yet, if the file is to end at `end`.
    pub(super) fn lacks(&self, end: usize) -> usize {
        end.saturating_sub(self.permit.num_permits() << 10)
    }

    pub(super) fn more_room(&mut self, permit: OwnedSemaphorePermit) {
        self.permit.merge(permit);
    }

    /// Writes `data`, of which [`Self::end_of`] has approved. What lies between the old end and it is
    /// zero.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let end = self.end_of(offset, data.len())?;
        let start = end - data.len();
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[start..end].copy_from_slice(data);
        self.changed_before(start);
        Ok(())
    }

    /// Makes the file `len` bytes long.
    pub(super) fn resize(&mut self, len: usize) {
        if len != self.content.len() {
            self.content.resize(len, 0);
            self.changed_before(len);
        }
    }

    /// What the server had is no beginning of the content any more if the change was before its end.
    fn changed_before(&mut self, at: usize) {
        let torn = self.state == State::Torn && !self.content.is_empty();
        if at < self.had && self.base == Base::Appended {
            self.base = Base::Anything;
        }
        self.state = if torn { State::Torn } else { State::Changed };
    }

    /// The server has `content` now.
    pub(super) fn stored(&mut self, content: Vec<u8>) {
        self.content = content;
        self.has_been_stored();
    }

    /// The server has it now. Whoever goes on writing goes on from here.
    pub(super) fn has_been_stored(&mut self) {
        self.had = self.content.len();
        self.state = State::Stored;
        if let Base::Etag(_) = self.base {
            self.base = Base::Anything;
        }
    }
}

/// `size` bytes of `content` at `offset`; less at its end.
pub(super) fn part(content: &[u8], offset: u64, size: u32) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    let end = start.saturating_add(size as usize).min(content.len());
    &content[start..end]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn permit() -> OwnedSemaphorePermit {
        Arc::new(tokio::sync::Semaphore::new(9)).try_acquire_many_owned(1).unwrap()
    }

    fn of(text: &str, at_end: bool) -> Draft {
        Draft::of(text.into(), "e".into(), at_end, permit())
    }

    #[test]
    fn writes_go_where_they_should() {
        let mut draft = of("hello\n", false);
        assert_eq!(draft.state, State::Stored);
        draft.write(1, b"E").unwrap();
        draft.write(8, b"!").unwrap();
        assert_eq!(draft.content(), b"hEllo\n\0\0!");
        assert_eq!((draft.state, &draft.base), (State::Changed, &Base::Etag("e".into())));
        draft.has_been_stored();
        assert_eq!((draft.state, &draft.base), (State::Stored, &Base::Anything));
        draft.resize(2);
        assert_eq!((draft.content(), draft.state), (&b"hE"[..], State::Changed));
        assert_eq!((part(b"abc", 1, 9), part(b"abc", 9, 9), part(b"abc", 0, 1)), (&b"bc"[..], &b""[..], &b"a"[..]));
    }

    #[test]
    fn what_is_appended_is_known() {
        let mut draft = of("a\n", true);
        draft.write(0, b"b\n").unwrap();
        assert_eq!((draft.content(), draft.added()), (&b"a\nb\n"[..], &b"b\n"[..]));
        draft.stored(b"a\nx\nb\n".to_vec());
        draft.write(0, b"c\n").unwrap();
        assert_eq!(draft.added(), b"c\n");
        assert_eq!(draft.base, Base::Appended);
        draft.resize(1);
        assert_eq!(draft.base, Base::Anything);
    }

    #[test]
    fn files_have_a_largest_size() {
        let mut draft = Draft::empty(false, permit());
        assert_eq!((draft.state, draft.lacks(1_024), draft.lacks(1_025)), (State::Emptied, 0, 1));
        assert_eq!(draft.write(FILE_BYTES_MAX as u64, b"x"), Err(Errno::EFBIG));
        assert_eq!(draft.write(u64::MAX, b"x"), Err(Errno::EFBIG));
        assert_eq!(draft.write(FILE_BYTES_MAX as u64 - 1, b"x"), Ok(()));
        draft.torn();
        draft.write(0, b"y").unwrap();
        assert_eq!(draft.state, State::Torn);
        draft.resize(0);
        assert_eq!(draft.state, State::Changed);
    }
}
