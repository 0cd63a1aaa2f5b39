Feature: Pools are taken out of service and back
  What runs goes on to its end; what comes meanwhile is told so.

  Background:
    Given a slow server with the tiny model

  Scenario: A drain while a stream runs
    When I submit a task of 120 tokens
    And I read 3 tokens of its stream
    And I drain the pool
    Then a new task is refused with POOL_UNAVAILABLE and told when to come back
    And the stream goes on to token 119 and its end
    And the job's stream tells its steps and ends once, done

  Scenario: A drained pool is resumed, and a purged one loads its model again
    When I drain the pool
    And I resume the pool
    Then a task of 5 tokens is answered
    When I purge the pool
    And I resume the pool
    Then a task of 5 tokens is answered
    And the pool's worker is in its second life

  Scenario: What is not there or cannot be is told
    Then jobs, pools and models that nobody knows are refused
