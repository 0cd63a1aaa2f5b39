Feature: Pools are taken out of service and back
  What runs goes on to its end; what comes meanwhile is told so.

  Scenario: A drain while a stream runs
    Given a slow server with the tiny model
    When I submit a task of 120 tokens
    And I read 3 tokens of its stream
    And I drain the pool
    Then a new task is refused with POOL_UNAVAILABLE and told when to come back
    And the stream goes on to token 119 and its end
    And the job's stream tells its steps and ends once, done

  Scenario: A drained pool is resumed, and a purged one loads its model again
    Given a slow server with the tiny model
    When I drain the pool
    And I resume the pool
    Then a task of 5 tokens is answered
    When I purge the pool
    And I resume the pool
    Then a task of 5 tokens is answered
    And the pool's worker is in its second life

  Scenario: What is not there or cannot be is told
    Given a slow server with the tiny model
    Then jobs, pools and models that nobody knows are refused

  Scenario: A model that does not load leaves the old one in its place
    Given a server with the tiny model and another
    When the other model's file is broken and I reload the pool to it with orch
    Then orch tells the steps back to the old model, and why
    And a task of 5 tokens is answered
    When the other model's file is missing and I reload the pool to it with orch
    Then orch tells the steps back to the old model, and why
    And a task of 5 tokens is answered

  Scenario: A pool is operated from a terminal
    Given a slow server with the tiny model
    When I drain the pool with orch
    Then orch tells the drain and that it is done
    And orch shows the pool as closed
    And a new task is refused with POOL_UNAVAILABLE and told when to come back
    When I resume the pool with orch
    Then a task of 5 tokens is answered
    When I purge the pool with orch
    And I resume the pool with orch
    Then a task of 5 tokens is answered
    And the pool's worker is in its second life

  Scenario: The weights of a pool are verified while it serves
    Given a slow server with the tiny model
    When I submit a task of 60 tokens
    And I read 3 tokens of its stream
    And I verify the pool with orch
    Then orch tells what was verified, and that it is sound
    And the stream goes on to token 59 and its end

  Scenario: What orch cannot do to a pool it says
    Given a slow server with the tiny model
    Then orch says that there is no such pool, no such model and no server
