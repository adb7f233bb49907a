//! temporary
use core::fmt::Write;
struct L;
struct W;
impl Write for W {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        crate::arch::uart::put_all(s.as_bytes());
        Ok(())
    }
}
impl log::Log for L {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, r: &log::Record<'_>) {
        let _ = write!(W, "[{}] {}\r\n", r.level(), r.args());
    }
    fn flush(&self) {}
}
/// x
pub fn init() {
    let _ = log::set_logger(&L);
    log::set_max_level(log::LevelFilter::Info);
}
