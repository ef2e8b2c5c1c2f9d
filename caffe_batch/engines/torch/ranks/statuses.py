"""What ranks and their launcher end with, and where in the log they speak."""

#: What a rank exits with when another one is lost, and the launcher when one doesn't answer.
LOST_STATUS, HUNG_STATUS = 43, 44

#: How a rank ends that has done what was asked: all updates, or a snapshot on request.
WELL = (0, 40)

#: The place of the launcher's line, which says which rank failed first.
LAUNCHER = "launch.py"

#: The place of what a rank says of others.
RANKS = "ranks.py"

#: How a message begins that one rank tells of another.
TOLD_OF_A_RANK = "rank "
