fn main() {
    match watchdog::kernel::Kernel::load(&Default::default()) {
        Ok(k) => {
            println!("{:?}", k.report());
            println!("{:?}", k.verified_instructions());
        }
        Err(e) => println!("{e}"),
    }
}
