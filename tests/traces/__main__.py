from tests.traces import write

write()
