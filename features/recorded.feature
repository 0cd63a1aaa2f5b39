Feature: A recorded day can be asked what else it could have been
  The journal of a run has everything that the scheduler was told. What stations did can be simulated.

  Scenario: What did the work cost, and what would other rules have done?
    Given a slow server with the tiny model
    When I submit 12 tasks of 60 tokens and wait for their ends
    And the server goes down a second later
    Then orch calibrate writes what the work cost and says how far off that is
    And orch whatif puts the recorded day beside one with a queue of no places

  Scenario: One task's story is shown to others
    Given a server with the tiny model
    When I submit 5 tasks of 24 tokens and wait for their ends
    And the server goes down
    Then the bundle of the last task replays, explains it as the journal does, and names nothing
