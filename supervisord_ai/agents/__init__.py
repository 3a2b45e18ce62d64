"""The life of an agent: from its turn in a batch to one verdict, and again.

    fleet         first settles what the last supervisor left (adopt, survivors), then says whose turn it is, batch by batch
    lifecycle     one task an agent, the only writer of its state; asks core/restart what follows an end
    living        one generation between start and end: readiness, heartbeats, the end within its grace
    memory_watch  who would be over an observed cap, and what each needs at most
    generation    one run: cage and limits, child held in its cage, journal, the other rooms, go; at the end the verdict
    environment   what the agent finds when it wakes
    heartbeats    whether one that promised them is hung
    rollout       how outdated ones come to their new specs, group by group, and back
    output        where its stdout and stderr go, and how that stays small
    duty          what is done again and again
    managed       the engines we keep (launches: the embedded one, or a backend's command), children of ours that are no agents

Order at a start: generation number durable, group limited, child in the group and waiting, pid durable, AgentStarted told,
go. Order at an end: intent noted, TERM to everyone, grace, KILL to everyone, nobody left, counters compared, AgentEnded told,
verdict durable. Each order is what makes a crash of ours between any two of its steps harmless.
"""
