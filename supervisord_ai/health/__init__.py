"""How the machine is, and what follows from it.

    sampler   once a second, off the loop: processor, memory, pressure files, graphics memory, queue, slots; an hour in a ring
    ladder    samples -> pressure (core/pressure) -> level 0..3 (core/degradation) -> LevelChanged, told to every room
    alerts    conditions over the named figures (core/alerts), delivered by command or URL
    metrics   what Prometheus scrapes

It measures and decides when; the other rooms do: the gateway substitutes and refuses, the fleet sheds and pauses.
"""
