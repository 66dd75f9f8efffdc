//! Which tasks of a plan may start: a state machine without clock, processes or storage. `execution` does what it says
//! and tells it what came of it.
//!
//! Its promises: a task starts once what it needs is final, and never after a stop; no more run at once than asked for;
//! every task is final at the end; a run that failed is not called succeeded.

/// Tasks that wait for each other, in order: each needs the next, the last the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Circle(pub(crate) Vec<usize>);

/// A circle in what tasks need, if there is one. Not recursive: a plan may be one long chain.
pub(crate) fn circle(needs: &[Vec<usize>]) -> Option<Circle> {
    /// How far the search is with a task.
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Not,
        OnPath,
        Done,
    }
    let mut seen = vec![Seen::Not; needs.len()];
    for start in 0..needs.len() {
        if seen[start] != Seen::Not {
            continue;
        }
        seen[start] = Seen::OnPath;
        // Tasks of the path, and how many of their needs are looked at.
        let mut path = vec![(start, 0)];
        while let Some((task, looked)) = path.last_mut() {
            let Some(&need) = needs[*task].get(*looked) else {
                seen[*task] = Seen::Done;
                path.pop();
                continue;
            };
            *looked += 1;
            match seen[need] {
                Seen::Not => {
                    seen[need] = Seen::OnPath;
                    path.push((need, 0));
                }
                Seen::OnPath => {
                    let begin = path.iter().position(|(task, _)| *task == need).expect("it is on the path");
                    return Some(Circle(path[begin..].iter().map(|(task, _)| *task).collect()));
                }
                Seen::Done => {}
            }
        }
    }
    None
}
